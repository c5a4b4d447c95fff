"""Policies: each decided again, with what a language model had to do with it."""

from aevo_jax.campaign import llm_session
from aevo_jax.campaign.decisions import decisions
from aevo_jax.campaign.decisions.state import CampaignState
from aevo_jax.meta_agent import policy as policy_lib
from aevo_jax.meta_agent.llm.chat_client import MAX_REPLY, Usage
from aevo_jax.meta_agent.policy import Policy
from aevo_jax.report.audit.audited_run import AuditedRun, sha256


def check_policies(run: AuditedRun) -> str:
  """Checks each policy, decided again by the recorded agent on the recorded evidence.

  Args:
    run: a run with the constitution it began with.

  Returns:
    The number of policies.
  """
  for round_, policy in run.policies.items():
    recorded = run.state.policies[round_]['digest']
    if round_ == 0:
      decided = policy_lib.starting(run.constitution.budget.noise_seeds)
    else:
      decided = run.decided_again(round_)
    run.expect(
      policy.digest() == recorded,
      f'round {round_}: the recorded policy does not have its recorded digest',
    )
    run.expect(
      decided.digest() == recorded,
      f'round {round_}: the {run.started["settings"]["agent"]} agent decides otherwise on '
      'this evidence',
    )
    _check_files(run, round_, policy)
  return f'{len(run.policies)} policies decided again, equal to the last digit'


def _check_files(run: AuditedRun, round_: int, policy: Policy) -> None:
  directory = run.path / 'policy' / f'round_{round_:03d}'
  for name, text in policy.files().items():
    path = directory / name
    run.expect(
      path.is_file() and path.read_text() == text,
      f'{path.relative_to(run.path)} is not the recorded policy',
    )


def check_promotions(run: AuditedRun) -> str:
  """Checks that what was promoted is what the policies say.

  Args:
    run: a run with the constitution it began with.

  Returns:
    The number of decisions, and of those that changed the standing recipe.
  """
  for round_, recorded in run.state.promotions.items():
    run.expect(
      recorded == decisions.promotion(run.policies[round_], run.policies[round_ + 1]),
      f"round {round_}: the recorded promotion is not the policy's",
    )
  changed = sum(r['promoted'] != r['before'] for r in run.state.promotions.values())
  return (
    f'{len(run.state.promotions)} decisions recomputed, {changed} of them changed the '
    'standing recipe'
  )


def check_transcript(run: AuditedRun) -> str:
  """Checks the conversations with a language model.

  Each complete conversation led to what was decided, under the constitution's prompt and caps.

  Args:
    run: a run with the constitution it began with.

  Returns:
    Numbers of exchanges, of questions without an answer, and of tokens.
  """
  exchanges = []
  for conversation in run.state.exchanges.values():
    exchanges += conversation
  if not run.settings.asks_llm:
    run.expect(
      not exchanges and not run.state.fell_back,
      'a language model was asked, and the settings give it no part',
    )
    return 'no language model has a part in this campaign'
  _check_caps(run)
  for exchange in exchanges:
    _check_exchange(run, exchange)
  for round_ in run.policies:
    if round_ and run.settings.agent == 'llm':
      run.decided_again(round_)
    if run.state.of_round(round_):
      run.chosen(round_)
  for dialogue in run.dialogues.values():
    dialogue.check_complete()
  spent = run.state.llm_spent
  return (
    f'{len(exchanges)} exchanges, {len(run.state.fell_back)} questions given up; '
    f'{spent["tokens_in"]} tokens in, {spent["tokens_out"]} out, within the caps'
  )


def _check_caps(run: AuditedRun) -> None:
  """No request was sent that could have come to more than the caps allow."""
  state = CampaignState()
  for record in run.records:
    if record.kind == 'llm_requested':
      most = Usage(**record.payload['reserved'])
      cap = llm_session.beyond_caps(state.llm_spent, most, run.constitution.llm_rules)
      run.expect(cap is None, f'record {record.seq} is a request beyond {cap}')
    if record.kind in ('llm_requested', 'llm_exchange'):
      state.apply(record)


def _check_exchange(run: AuditedRun, exchange: dict) -> None:
  place = f'round {exchange["round"]}, {exchange["purpose"]}, attempt {exchange["attempt"]}'
  prompt = {'role': 'system', 'content': run.constitution.llm_rules.system_prompt}
  run.expect(
    exchange['messages'][0] == prompt,
    f"{place}: sent under another prompt than the constitution's",
  )
  if exchange['length'] > MAX_REPLY:
    run.expect(exchange['error'] != '', f'{place}: a reply that was cut is taken for a whole one')
    return
  reply = exchange['reply']
  run.expect(
    sha256(reply) == exchange['digest'] and len(reply.encode()) == exchange['length'],
    f'{place}: the reply does not have its recorded digest',
  )
