"""Tables of candidates: what real ones look like, and errors about those that cannot be read."""

import pytest

from aevo_jax.meta_agent.drift import score_table
from aevo_jax.meta_agent.drift.score_table import TableError


def read(tmp_path, text, external='lb', size=2, column=None):
  (tmp_path / 'table.csv').write_text(text)
  return score_table.read(tmp_path / 'table.csv', external, size, column)


def test_a_leaderboard_with_comments_names_ids_and_gaps(tmp_path):
  table = read(
    tmp_path,
    (
      '\ufeff# exported\nid,team,bits,units,lb,notes,empty\n1,ann,50,60%,70,,\n\n2,bob,, '
      '61 ,71,late,\n# a pause\n3,"c, '
      'd",52,62,NA,3,\n4,eve,53,63,73,x,\n5,fay,54,64,74,,\n6,guy,55,65,75,,\n'
    ),
  )
  assert table.families == ('bits', 'units') and table.mean_overall
  assert table.ignored == {
    'id': 'no score by its name',
    'team': 'not numeric',
    'notes': 'not numeric',
    'empty': 'empty',
  }
  assert [(r.label, r.lines, r.rows) for r in table.rounds] == [
    ('1', (3, 5), 2),
    ('2', (7, 8), 2),
    ('3', (9, 10), 2),
  ]
  first = table.rounds[0]
  assert first.dev == {
    'bits': {3: 50, 5: None},
    'units': {3: 60, 5: 61},
    'overall': {3: 55, 5: None},
  } and first.external == {3: 70, 5: 71}
  assert table.rounds[1].external[7] is None


def test_rounds_by_column_and_overall_of_its_own(tmp_path):
  table = read(
    tmp_path, 'week;Overall;lb\na;1;2\na;2;3\na;2;3\nb;3;4\nb;4;5\n', size=None, column='week'
  )
  assert (
    not table.mean_overall
    and table.families == ()
    and [(r.label, r.rows) for r in table.rounds] == [('a', 3), ('b', 2)]
  )


def test_a_last_round_may_be_short(tmp_path):
  assert [r.rows for r in read(tmp_path, 'a,lb\n' + '1,2\n' * 5, size=3).rounds] == [3, 2]


def test_item_variance_of_shares_and_percentages(tmp_path):
  shares, percent = (
    read(tmp_path, f'a,b,lb\n{x},{y},1\n{x},{y},2\n') for x, y in ((0.2, 0.5), (20, 50))
  )
  assert shares.item_variance(shares.rounds[0], 100) == pytest.approx(
    {'a': 0.0016, 'b': 0.0025, 'overall': 0.0041 / 4}
  )
  assert percent.item_variance(percent.rounds[0], 100) == pytest.approx(
    {'a': 16, 'b': 25, 'overall': 41 / 4}
  )
  ratings = read(tmp_path, 'a,lb\n1500,1\n1600,2\n')
  with pytest.raises(TableError, match='they go from 1500 to 1600; leave out --items'):
    ratings.item_variance(ratings.rounds[0], 100)


@pytest.mark.parametrize(
  ('text', 'options', 'said'),
  [
    ('a,lb\n1,2\n1,2\n', {'external': 'LB'}, r"no column 'LB' for --external_column; "),
    ('a,private\n1,2\n1,2\n', {'external': 'privat'}, "did you mean 'private'"),
    ('a,lb\n1,2\n1,2\n', {'size': None, 'column': 'week'}, "no column 'week' for --round_column"),
    (
      'a,lb\n1,2\nx,2\n1,3\n',
      {},
      r"table.csv:3: 'x' in column 'a' is not a number; leave the cell empty",
    ),
    ('a,lb\n1,2\n1,inf\n', {}, r"table.csv:3: 'inf' in column 'lb' is not a number"),
    ('name,lb\nx,2\ny,2\n', {}, r"no column of dev scores besides 'lb' \(left out: name\)"),
    ('a,lb\n1,\n2,\n', {}, "column 'lb' is empty"),
    ('a,lb\n1,2\n1,2\n1,3\n', {}, 'table.csv:4: round 2 has 1 row'),
    ('a,lb\n1,2,3\n', {}, r'table.csv:2: 3 cells, and the header names 2 columns'),
    ('a,a,lb\n1,2,3\n', {}, "two columns are named 'a'"),
    ('a,lb\n', {}, 'no rows of candidates'),
    ('', {}, 'no rows of candidates'),
    (
      'w,a,lb\n1,1,1\n1,1,1\n2,1,1\n2,1,1\n1,1,1\n',
      {'size': None, 'column': 'w'},
      r"table.csv:6: round '1' of column 'w' begins a second time",
    ),
    (
      'w,a,lb\n1,1,1\n,1,1\n',
      {'size': None, 'column': 'w'},
      r"table.csv:3: no value in round column 'w'",
    ),
    ('a,lb\n1,1\n1,1\n', {'size': None, 'column': 'lb'}, "are both 'lb'"),
  ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, text, options, said):
  with pytest.raises(TableError, match=said):
    read(tmp_path, text, **options)
