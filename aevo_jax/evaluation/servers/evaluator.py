"""The evaluator process: scores sealed weights on the dev set, from the weights alone.

  python -m aevo_jax.evaluation.servers.evaluator \\
    --base=DIR --constitution=FILE --threads=1 --cache=DIR

Request {"op": "score", "weights": PATH, "file_digest": SHA256, "out": PATH}: item results are
written to `out`, and the reply is their summary. If the constitution has probes, their answers go
to the file beside it that `score_files.probes_path` names, and their summaries into the reply. It
reads nothing a worker wrote but the safetensors file, whose digest must be the sealed one.

Request {"op": "check", "weights": PATH, "file_digest": SHA256} loads weights and scores nothing.
"""

from aevo_jax.evaluation.servers import arguments as arguments_lib
from aevo_jax.evaluation.servers import protocol


def main() -> None:
  """Serves requests until standard input ends."""
  arguments = arguments_lib.parser('dev scores of sealed weights').parse_args()
  protocol.start(arguments.threads, arguments.cache)
  from aevo_jax.evaluation.servers import dev_scores  # noqa: PLC0415 - JAX, with threads pinned

  evaluator = dev_scores.open_evaluator(
    arguments.constitution, arguments.base, threads=arguments.threads
  )
  protocol.serve({'score': evaluator.score, 'check': evaluator.check})
  evaluator.close()


if __name__ == '__main__':
  main()
