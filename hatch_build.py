"""Carries the checkout's data folders into the wheel, under names that cannot collide.

A checkout keeps what people write at its root: launch/, configs/, constitution.gin, substrate/. A
wheel may install only `aevo_jax` at the top level, so the same files travel inside the package;
`aevo_jax/layout.py` knows both places. An editable install needs no copies (they would go stale),
which is why this is a hook and not a static `force-include` table: that one applies to both.
"""

import pathlib

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# configs/ keeps its own name below _configs, so that the gin search path `_configs` resolves the
# spelling `configs/campaigns/quickstart.gin`, includes inside those files too, exactly as the root
# of a checkout does.
PLACES = {
  'launch': 'aevo_jax/_launch',
  'configs': 'aevo_jax/_configs/configs',
  'constitution.gin': 'aevo_jax/_constitution.gin',
  'substrate': 'aevo_jax/_substrate',
}


class CustomBuildHook(BuildHookInterface):
  """Adds `PLACES` to a standard wheel. Raises FileNotFoundError naming every missing source."""

  def initialize(self, version: str, build_data: dict) -> None:
    if version == 'editable':
      return
    root = pathlib.Path(self.root)
    missing = [source for source in PLACES if not (root / source).exists()]
    if missing:
      raise FileNotFoundError(
        f'cannot build a wheel: {", ".join(missing)} missing under {root}; build from a '
        'complete checkout'
      )
    build_data['force_include'].update(
      {str(root / source): place for source, place in PLACES.items()}
    )
