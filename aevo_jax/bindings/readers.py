"""Which command reads which settings: the one table behind `unread` and docs/bindings.md.

A row names a section of gin, or one selector, and the conditions that hold for this command alone.
What a field depends on in every command stands on the field (`constraints.ReadWhen`).
"""

from collections.abc import Mapping

from aevo_jax.config.constraints import ReadWhen, holding, one_of, other_than

Rows = Mapping[str, tuple[ReadWhen, ...] | None]  # None: of this section, not that field


def _always(*names: str) -> dict[str, tuple[ReadWhen, ...]]:
  return dict.fromkeys(names, ())


_RECIPE = _always(
  'method',
  'optimizer',
  'train',
  'loss',
  'data',
  'adaptation',
  'lora',
  'family_weight',
  'rare_share',
  'solution_style',
  'difficulty',
  'answer_shown',
  'answer_withheld',
  'policy_gradient',
  'advantage',
  'reward',
  'critic',
  'rl',
  'gates',
  'environment',
  'dpo',
  'distillation',
)
_MIXTURE = _always('family_weight', 'rare_share', 'difficulty', 'answer_shown', 'answer_withheld')
_ASKS_LLM = ReadWhen(one_of('campaign.agent', 'llm'), one_of('campaign.workers_choose', 'llm'))
_PRICED = ReadWhen(other_than('llm.price_in', 0.0), other_than('llm.price_out', 0.0))
_SERVED = ReadWhen(one_of('evaluation.engine', 'vllm'))
_IN_PROCESS = ReadWhen(one_of('evaluation.engine', 'jax'))
_LOCAL = ReadWhen(one_of('campaign.arbiter', 'local'))
_MANUAL = ReadWhen(one_of('campaign.arbiter', 'manual'))
_EXTERNAL = ReadWhen(one_of('objective.target', 'external'))
_DRY_RUN = ReadWhen(one_of('--dry_run', True))
_OF_A_MODEL = ReadWhen(other_than('estimate.model', ''))
_SHIFTED = ReadWhen(other_than('--plant', 'none'))
_MOVES = ReadWhen(other_than('simulation.surface', 'flat'))

# Shapes and dtypes are what memory depends on.
_SIZES = _always(
  'model.family',
  'model.vocab_size',
  'model.hidden_size',
  'model.pattern',
  'model.num_attention_heads',
  'model.num_key_value_heads',
  'model.head_dim',
  'model.rope_theta',
  'model.qk_norm',
  'model.attention_bias',
  'model.intermediate_size',
  'model.mlp_bias',
  'model.mlp_activation',
  'model.mamba_num_heads',
  'model.mamba_head_dim',
  'model.n_groups',
  'model.ssm_state_size',
  'model.conv_kernel',
  'model.use_bias',
  'model.use_conv_bias',
  'model.time_step_low',
  'model.time_step_high',
  'model.chunk_size',
  'model.n_routed_experts',
  'model.num_experts_per_tok',
  'model.moe_intermediate_size',
  'model.moe_shared_expert_intermediate_size',
  'model.moe_latent_size',
  'model.router',
  'model.norm_topk_prob',
  'model.moe_implementation',
  'model.attention_implementation',
  'model.sliding_window',
  'model.tie_word_embeddings',
  'model.compute_dtype',
  'model.scan',
)

READERS: Mapping[str, Rows] = {
  'train': {
    **_RECIPE,
    **_always('rollout', 'upkeep', 'mesh', 'sharding'),
    **_always('model.compute_dtype', 'model.moe_implementation', 'model.remat_policy'),
    **_always('model.attention_implementation', 'model.scan'),
    'vllm': (ReadWhen(one_of('rollout.engine', 'vllm')),),
  },
  'pretrain': {**_MIXTURE, **_always('pretrain', 'model', 'optimizer', 'mesh', 'sharding')},
  'campaign': {
    **_RECIPE,
    **_always('rollout', 'campaign', 'objective', 'tasks.path', 'dev_set', 'budget'),
    **_always('promotion', 'reversal', 'control', 'probes', 'evaluation.engine', 'search_space'),
    **_always('submission.max_rank'),
    'campaign.llm': None,
    'release.per_round': (_EXTERNAL,),
    'release.decimals': (_EXTERNAL,),
    'external_set': (_EXTERNAL, _LOCAL),
    'final_set': (_LOCAL,),
    'submission.base_name': (_MANUAL,),
    'keep_or_discard': (ReadWhen(one_of('campaign.agent', 'keep_or_discard')),),
    'evaluation.arbiter_url': (),
    'vllm': (_SERVED,),
    'llm': (_ASKS_LLM,),
    'llm_rules.system_prompt': (_ASKS_LLM,),
    'llm_rules.token_cap': (_ASKS_LLM,),
    'llm_rules.money_cap': (_ASKS_LLM, _PRICED),
    'estimate.model': (_DRY_RUN,),
    'estimate.mesh': (_DRY_RUN, _OF_A_MODEL),
    'estimate.devices': (_DRY_RUN, _OF_A_MODEL),
    'estimate.row_length': (_DRY_RUN, _OF_A_MODEL),
  },
  'evaluate': {
    **_always('objective.size', 'objective.verifier', 'objective.max_new_tokens', 'tasks.path'),
    'objective.target': (ReadWhen(one_of('--split', 'final')),),
    'dev_set': (ReadWhen(one_of('--split', 'dev')),),
    'external_set': (ReadWhen(one_of('--split', 'external')),),
    'final_set': (ReadWhen(one_of('--split', 'final')),),
    'evaluation.engine': (),
    'vllm': (_SERVED,),
    'mesh': (_IN_PROCESS,),
    'sharding': (_IN_PROCESS,),
  },
  'evaluate --harness': _always('vllm', 'evaluation.engine'),
  'shapes': {
    **_SIZES,
    **_always('adaptation', 'lora.rank', 'lora.targets', 'optimizer.name', 'train.ema_decay'),
    **_always('mesh', 'sharding', 'train.logits_chunk', 'train.microbatches'),
    'model.remat_policy': (ReadWhen(other_than('--compile', None)),),
  },
  'compare_sharding': {
    **_SIZES,
    **_always('adaptation', 'lora.rank', 'lora.targets', 'optimizer.name', 'train.ema_decay'),
    **_always('sharding', 'train.logits_chunk', 'train.microbatches', 'model.remat_policy'),
    **_always('hardware'),
  },
  'simulate': {
    **_always('budget.rounds', 'budget.workers', 'budget.noise_seeds', 'dev_set.items'),
    **_always('external_set.items', 'promotion', 'release', 'tasks.path', 'objective.verifier'),
    **_always('reversal.alpha', 'reversal.calibration_rounds', 'reversal.test'),
    **_always('reversal.gain_share', 'reversal.slope_share', 'reversal.transfer'),
    **_always('reversal.exact_rounds', 'reversal.power', 'control.workers', 'control.rounds'),
    **_always('search_space', 'simulation.seed', 'simulation.surface', 'simulation.trials'),
    **_always('simulation.base', 'simulation.base_sd', 'simulation.seed_sd'),
    **_always('simulation.transfer_sd', 'simulation.common_items', 'simulation.verdicts'),
    'keep_or_discard': (ReadWhen(holding('--agents', 'keep_or_discard')),),
    'simulation.effect_sd': (_MOVES,),
    'simulation.change_cost': (_MOVES,),
    'simulation.plant_seed': (_SHIFTED,),
    'simulation.plant_size': (_SHIFTED,),
    'simulation.plant_harm': (ReadWhen(one_of('--plant', 'reversal')),),
    'simulation.plant_round': (_SHIFTED,),
    'simulation.plant_axes': (_SHIFTED,),
    'simulation.anchors': (ReadWhen(holding('--agents', 'none')),),
  },
  'replay_ledger': {
    **_always('reversal.alpha', 'reversal.gain_share', 'reversal.slope_share', 'reversal.test'),
    **_always('reversal.calibration_rounds', 'reversal.exact_rounds', 'reversal.power'),
  },
}

# Command -> setting -> the flag that, where it is given, takes its place.
OVERRIDES: Mapping[str, Mapping[str, str]] = {
  'train': {'tasks.path': '--tasks'},
  'shapes': {'adaptation.method': '--adaptation'},
  'compare_sharding': {'adaptation.method': '--adaptation'},
  'evaluate': {
    'objective.verifier': '--verifier',
    'dev_set.items': '--items',
    'external_set.items': '--items',
    'final_set.items': '--items',
  },
}


def row(command: str, name: str, parameter: str) -> tuple[ReadWhen, ...] | None:
  """Finds when a command reads a parameter, beyond what the parameter itself declares.

  Args:
    command: a key of `READERS`.
    name: of a configurable.
    parameter: of it.

  Returns:
    The conditions; None where the command never reads it.
  """
  rows = READERS[command]
  return rows.get(f'{name}.{parameter}', rows.get(name))


def readers(name: str, parameter: str = '') -> list[str]:
  """Lists the commands that read a parameter, or anything of a configurable.

  Args:
    name: of the configurable.
    parameter: of it; '' for any.
  """
  commands = []
  for command, rows in READERS.items():
    if parameter:
      is_read = row(command, name, parameter) is not None
    else:
      is_read = any(key.partition('.')[0] == name for key in rows)
    if is_read:
      commands.append(command)
  return commands
