"""The checker of signatures that pytest's option `--jaxtyping-packages` names: beartype, for which
an int is a float too, as it is for type checkers (PEP 484's numeric tower).
"""

import beartype

check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
