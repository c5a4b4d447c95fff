"""report.html (placeholder body until the full page is written)."""
import pathlib
def write(run: pathlib.Path) -> pathlib.Path:
  path = run / 'report.html'
  path.write_text('<html></html>')
  return path
