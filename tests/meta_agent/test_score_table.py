"""Tables of candidates: what real ones look like, and errors about those that cannot be read."""

import pytest

from aevo_jax.meta_agent.drift.tables import score_table
from aevo_jax.meta_agent.drift.tables.score_table import TableError


def read(tmp_path, text, external='lb', size=2, column=None, period=None, **said):
  content = text if isinstance(text, bytes) else text.encode()
  (tmp_path / 'table.csv').write_bytes(content)
  columns = score_table.Columns(external, column, period, **said)
  return score_table.read(tmp_path / 'table.csv', columns, size)


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


@pytest.mark.parametrize(
  ('rows', 'sizes'), [(2, [2]), (3, [3]), (4, [4]), (5, [3, 2]), (7, [3, 4]), (8, [3, 3, 2])]
)
def test_a_table_may_have_any_number_of_rows(tmp_path, rows, sizes):
  """A last row that is left alone joins the round before it."""
  table = read(tmp_path, 'a,lb\n' + ''.join(f'{i % 3},{i}\n' for i in range(rows)), size=3)
  assert [each.rows for each in table.rounds] == sizes
  assert ('joins the round before' in table.grouped) == (rows % 3 == 1)
  assert [each.rows for each in table.with_rounds_of(rows).rounds] == [rows]


def dated(cells, period=None):
  rows = [f'{cell},{i * 7 % 5},{i}\n' for i, cell in enumerate(cells)]
  return {'text': 'date,a,lb\n' + ''.join(rows), 'size': None, 'column': 'date', 'period': period}


def test_dates_are_rounds_in_the_order_of_time(tmp_path):
  newest_first = [f'2026-01-{day:02d}' for day in (19, 12, 12, 12, 12, 5, 5, 5, 5)]
  table = read(tmp_path, **dated(newest_first))
  assert [(r.label, r.rows) for r in table.rounds] == [('2026-01-05', 4), ('2026-01-12', 4)]
  assert list(table.rounds[0].external) == [7, 8, 9, 10] and table.alone == {2: '2026-01-19'}
  assert "by the day of 'date'" in table.grouped and 'another order' in table.grouped


@pytest.mark.parametrize(
  ('cells', 'period', 'labels'),
  [
    ([f'2026-01-{day:02d}T12:00:00Z' for day in range(5, 19)], None, ['2026-W02', '2026-W03']),
    (
      [f'2026/0{month}/{day}' for month in (1, 2) for day in (10, 20)],
      'month',
      ['2026-01', '2026-02'],
    ),
    ([str(1767571200 + 21600 * i) for i in range(8)], None, ['2026-01-05', '2026-01-06']),
    (['2026-01-05T23:30:00-02:00', '2026-01-06', '2026-01-06', '2026-01-06'], None, ['2026-01-06']),
  ],
)
def test_timestamps_and_periods(tmp_path, cells, period, labels):
  assert [r.label for r in read(tmp_path, **dated(cells, period)).rounds] == labels


def test_a_loss_is_told_by_its_fall_in_the_order_of_time(tmp_path):
  """Newest first, it rises down the file."""
  rows = [f'2026-02-{20 - i},{1.5 + i / 50:.2f},{9 - i}\n' for i in range(10)]
  with pytest.raises(TableError, match=r"'a' goes from 1\.68 to 1\.5 in the order of time"):
    read(
      tmp_path, 'date,a,lb\n' + ''.join(rows), size=None, column='date', higher_is_better=('lb',)
    )


@pytest.mark.parametrize(
  ('cells', 'period', 'said'),
  [
    (['05/01/2026', '05/01/2026'], None, 'write dates as YYYY-MM-DD'),
    (['2026-01-05', 'soon', '2026-01-06'], None, ":3: 'soon' in round column 'date' is no date"),
    (['1', '1'], 'week', 'or leave out --round_by'),
    (['a', 'b', 'c'], None, 'every row has a round of its own'),
  ],
)
def test_other_dates_are_refused(tmp_path, cells, period, said):
  with pytest.raises(TableError, match=said):
    read(tmp_path, **dated(cells, period))


def test_accuracies_are_shares_of_right_answers_whichever_way_they_are_written(tmp_path):
  shares = read(
    tmp_path, 'a,error,lb\n.2,.8,30\n.7,.5,60\n', lower_is_better=('error',), dev=('a',)
  )
  assert shares.perfect == (1, 100)
  dev, external = shares.shares(shares.rounds[0])
  assert external == {2: 0.3, 3: 0.6} and dev['overall'] == pytest.approx({2: 0.2, 3: 0.6})
  errors = read(tmp_path, 'error,lb\n.2,.8\n.7,.5\n', lower_is_better=('error', 'lb'))
  dev, external = errors.shares(errors.rounds[0])
  assert dev['error'] == pytest.approx({2: 0.8, 3: 0.3})
  assert dev['overall'] == pytest.approx(dev['error']) and external == pytest.approx(
    {2: 0.2, 3: 0.5}
  )
  errors.check_items()
  ratings = read(tmp_path, 'a,lb\n1500,1\n1600,2\n')
  assert ratings.perfect is None
  with pytest.raises(TableError, match='they go from 1500 to 1600; leave out --items'):
    ratings.check_items()


def test_cells_that_say_a_crash_or_infinity_are_no_scores(tmp_path):
  table = read(tmp_path, 'a,lb\n1,2\nOOM,3\n2,inf\n3,4\n')
  assert table.no_scores == {3: 'OOM', 4: 'inf'}
  assert table.rounds[0].dev['a'] == {2: 1, 3: None}


FALLING = 'a,lb\n' + ''.join(f'{1.99 - i / 100:.2f},{i}\n' for i in range(10))


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
    (
      'name,lb\nx,2\ny,3\n',
      {},
      r"no column of dev scores besides 'lb' \(left out: name: not numeric\)",
    ),
    ('a,lb\n1,\n2,\n', {}, "column 'lb' is empty"),
    ('a,lb\n1,2\n', {}, 'has 1 candidates with scores, and two or more are ranked together'),
    ('a,lb\n1,2,3\n', {}, r'table.csv:2: 3 cells, and the header names 2 columns'),
    ('a,a,lb\n1,2,3\n', {}, "two columns are named 'a'"),
    ('a,lb\n', {}, 'no rows of candidates'),
    ('', {}, 'no rows of candidates'),
    (
      'w,a,lb\n1,1,1\n1,2,1\n2,1,1\n2,1,2\n1,1,1\n',
      {'size': None, 'column': 'w'},
      r"table.csv:6: round '1' of column 'w' begins a second time",
    ),
    (
      'w,a,lb\n1,1,1\n,2,2\n',
      {'size': None, 'column': 'w'},
      r"table.csv:3: no value in round column 'w'",
    ),
    ('a,lb\n1,1\n1,1\n', {'size': None, 'column': 'lb'}, "are both 'lb'"),
    # Which way is better.
    ('dev_loss,lb\n2,1\n1,2\n', {}, 'say --lower_is_better=dev_loss if less is better'),
    ('a,valBPB\n2,1\n1,2\n', {'external': 'valBPB'}, 'say --lower_is_better=valBPB'),
    ('a,word error,lb\n.1,.2,1\n.2,.3,2\n', {}, "column 'word error' is called as if less"),
    (FALLING, {}, "column 'a' goes from 1.99 to 1.9 in the order of time, as losses do"),
    ('a,lb\n1,2\n2,3\n', {'lower_is_better': ('b',)}, "no column 'b' for --lower_is_better"),
    (
      'a,lb\n1,2\n2,3\n',
      {'lower_is_better': ('a',), 'higher_is_better': ('a',)},
      "both name 'a'; leave one out",
    ),
    # Which columns are scores.
    (
      'val_bpb,memory_gb,train_steps\n.9,44,7\n.8,45,8\n',
      {'external': 'val_bpb'},
      'memory_gb: no score by its name, train_steps: no score by its name',
    ),
    ('a,b,lb\n1,2,3\n2,2,4\n', {'dev': ('B',)}, "no column 'B' for --dev_columns"),
    ('a,b,lb\n1,2,3\n2,2,4\n', {'dev': ('b',)}, "column 'b' has 2 in every row"),
    ('a,lb\n1,2\n2,3\n', {'dev': ('lb',)}, "both name 'lb'; leave one out"),
    ('a,lb\n1,2\n2,2\n', {}, "column 'lb' has 2 in every row, so nothing can be ranked"),
    ('overall,Overall,lb\n1,2,3\n2,3,4\n', {}, 'two columns are named overall and Overall'),
    # Numbers as others write them.
    ('a;lb\n0,5;1\n0,6;2\n', {}, r"table.csv:2: '0,5' in column 'a' has a comma"),
    ('a\tlb\n1,234.5\t1\n900\t2\n', {}, r"'1,234.5' in column 'a' has a comma"),
    ('a,lb\n0,5,1\n', {}, 'and write decimal points'),
    ('a,lb\n60%,1\n0.5,2\n', {}, r"table.csv:3: '0.5' in column 'a' has no percent sign"),
    (
      'a,b,lb\n.5,60,1\n.4,61,2\n',
      {},
      r"column 'a' holds shares \(0 to 1\) and column 'b' percentages .* a column 'overall'",
    ),
    ('a,lb,status\n1,2,crash\n2,3,OOM\n', {}, 'no candidate that did not crash'),
    ('a,lb\n1,2\n2,3\n'.encode('utf-16'), {}, 'no CSV text in UTF-8'),
  ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, text, options, said):
  with pytest.raises(TableError, match=said):
    read(tmp_path, text, **options)


def test_of_a_loss_less_is_better_and_its_zeros_are_crashes(tmp_path):
  text = 'loss,lb\n2.0,.3\n0.000000,0\n1.5,.5\n1.9,.4\n1.4,.6\n'
  table = read(tmp_path, text, lower_is_better=('loss',))
  assert table.rounds[0].dev['loss'] == {2: -2.0, 4: -1.5}
  assert table.rounds[0].dev['overall'] == {2: -2.0, 4: -1.5}
  assert table.lower_is_better == ('loss',) and table.crashed == {3: '0 in every score'}
  with pytest.raises(TableError, match="'loss' is a loss; leave out --items"):
    table.check_items()


def test_rows_that_crashed_are_left_out_and_zeros_of_accuracies_are_named(tmp_path):
  text = 'a,lb,Status\n.3,.4,keep\n0,0,crashed\n0,0,keep\n.2,.3,timed out\n.4,.5,discard\n'
  table = read(tmp_path, text, size=3)
  assert table.crashed == {3: 'Status crashed', 5: 'Status timed out'} and table.zeros == (4,)
  assert table.ignored == {'Status': 'not numeric'}
  assert read(tmp_path, 'state,lb\n.3,.4\n.2,.3\n').families == ('state',)
  assert table.rounds[0].external == {2: 0.4, 4: 0.0, 6: 0.5}


def test_a_column_that_counts_is_no_score(tmp_path):
  text = 'week,nth,a,at,batch_size,lb\n'
  text += ''.join(f'{i // 2},{i},{i * i},{1767614400 + i},{i % 3},{i}\n' for i in range(6))
  table = read(tmp_path, text)
  assert table.families == ('a',)
  assert table.ignored == {
    'week': 'no score by its name',
    'nth': 'counts the rows',
    'at': 'too large for scores, as timestamps are',
    'batch_size': 'no score by its name',
  }


def test_columns_that_a_flag_names_are_scores(tmp_path):
  text = 'a,memory_gb,c,time_zones,lb\n1,40,1,1,1\n2,41,2,2,2\n'
  assert read(tmp_path, text).families == ('a', 'c', 'time_zones')
  named = read(tmp_path, text, dev=('memory_gb', 'a'))
  assert named.families == ('a', 'memory_gb') and named.ignored['c'] == 'not among --dev_columns'
  falling = read(tmp_path, FALLING, higher_is_better=('a',))
  assert falling.lower_is_better == () and falling.rounds[0].dev['a'][2] == 1.99
