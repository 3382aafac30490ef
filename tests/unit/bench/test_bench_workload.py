import pytest

from packager.bench.workload import Question, arrivals, random_questions, read_questions


def test_a_seed_gives_the_same_prompts_and_another_one_others():
    drawn = random_questions(5, 12, 7, seed=1)
    assert drawn == random_questions(5, 12, 7, seed=1)
    assert drawn != random_questions(5, 12, 7, seed=2)
    assert [len(one.prompt.split()) for one in drawn] == [12] * 5
    assert {one.max_tokens for one in drawn} == {7}
    assert len({one.prompt for one in drawn}) == 5


def test_a_file_is_read_in_order_and_again_from_its_start():
    text = '{"prompt": "a"}\n\n{"prompt": "b", "output_tokens": 3}\n'
    assert read_questions(text, 3, 9) == [Question("a", 9), Question("b", 3), Question("a", 9)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it holds no prompt"),
        ('{"prompt": "a"}\n{oops', "line 2 is not JSON"),
        ("[]", 'line 1 is not {"prompt": TEXT}'),
        ('{"prompt": ""}', 'line 1 is not {"prompt": TEXT}'),
        ('{"prompt": "a", "output_tokens": 0}', "line 1: output_tokens must be"),
        ('{"prompt": "a", "output_tokens": true}', "line 1: output_tokens must be"),
    ],
)
def test_a_file_that_is_something_else_is_refused_by_its_line(text, said):
    with pytest.raises(ValueError, match=said.replace("{", r"\{")):
        read_questions(text, 1, 9)


def test_without_a_rate_everything_is_due_at_once():
    assert arrivals(3, None, 1.0, seed=0) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("burstiness", [0.3, 1.0, 50.0])
def test_arrivals_end_where_the_rate_says_and_spread_as_burstiness_says(burstiness):
    count, rate = 2000, 8.0
    due = arrivals(count, rate, burstiness, seed=4)
    gaps = [later - earlier for earlier, later in zip([0.0, *due], due, strict=False)]
    assert due == sorted(due)
    assert due[-1] == pytest.approx(count / rate)
    mean = sum(gaps) / count
    variance = sum((gap - mean) ** 2 for gap in gaps) / count
    # Of a gamma distribution with this shape.
    assert variance / mean**2 == pytest.approx(1 / burstiness, rel=0.2)
    assert due == arrivals(count, rate, burstiness, seed=4)
