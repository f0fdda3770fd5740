"""LongBench scores: official numbers from recorded predictions, every metric by hand, bad input."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from python_eval.longbench import data, metrics, score, tasks
from python_eval.longbench.__main__ import main
from python_eval.longbench.tasks import LongBenchError

GOOD = {"pred": "Paris.", "answers": ["Rome", "paris"], "all_classes": None, "length": 3999}


@pytest.fixture(scope="session")
def recorded(shared):
    return shared / "longbench" / "predictions" / "llama2-7b-chat-4k"


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


# --- official numbers ---


SLOW = {"gov_report", "multi_news", "vcsum", "dureader"}  # long texts under ROUGE-L


@pytest.mark.parametrize("name", [pytest.param(t, marks=pytest.mark.slow) if t in SLOW else t for t in tasks.TASKS])
def test_recorded_predictions_score_the_official_number(name, recorded):
    official = json.loads((recorded / "result.json").read_text())
    if name not in official:
        pytest.skip(f"no official score of {name}")
    assert score.score_task(tasks.task(name), data.read_predictions(recorded / f"{name}.jsonl")) == official[name]


def test_buckets_share_the_samples_of_the_whole(recorded):
    task = tasks.task("qasper")
    samples = data.read_predictions(recorded / "qasper.jsonl")
    sizes = {name: 0 for name, _ in tasks.LENGTH_BUCKETS}
    for sample in samples:
        sizes[tasks.length_bucket(sample.length)] += 1
    buckets = score.score_buckets(task, samples)
    mean = sum(buckets[name] * size for name, size in sizes.items() if size) / len(samples)
    assert min(size for size in sizes.values() if size) > 0 and len(set(buckets.values())) == 3
    assert mean == pytest.approx(score.score_task(task, samples), abs=0.01)


# --- metrics by hand ---


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("The cat, sat!", "a CAT", 2 / 3),  # cat sat | cat: precision 1/2, recall 1
        ("yes yes", "yes", 2 / 3),  # a multiset: the second yes is a miss
        ("U.S.-based", "usbased", 1.0),  # punctuation joins, it does not part
        ("theatre", "atre", 0.0),  # articles are whole words
        ("", "cat", 0.0),
        ("the", "the", 0.0),  # nothing left to compare
    ],
)
def test_qa_f1(prediction, answer, expected):
    assert metrics.qa_f1(prediction, answer) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("厦门大学", "厦门大学。", 1.0),
        ("我来到北京清华大学", "北京清华大学", 2 / 3),  # 我 来到 北京 清华大学 | 北京 清华大学
        ("ＡＢＣ，", "。", 0.0),
    ],
)
def test_qa_f1_zh(prediction, answer, expected):
    assert metrics.qa_f1_zh(prediction, answer) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("the cat sat", "the cat ran", 2 / 3),
        # Both sentences against the gold: 1 2 and 1 3 5, together four of its five words; eight different words said.
        ("1 2 6 7 8. 1 3 8 9 5", "1 2 3 4 5", 2 * (4 / 5) * (4 / 8) / (4 / 5 + 4 / 8)),
        ("a a a", "a", 1.0),  # words are counted once
        ("b a", "a b", 0.5),  # order matters: a subsequence of one of two words
        ("", "a", 0.0),
        ("...", "a", 0.0),
    ],
)
def test_rouge(prediction, answer, expected):
    assert metrics.rouge(prediction, answer) == pytest.approx(expected, abs=2e-8)


def test_rouge_of_long_sentences_does_not_run_out_of_stack():
    # One word shared, the first: the way back to it goes through every word of both.
    said, gold = (" ".join(["same", *(f"{side}{i}" for i in range(599))]) for side in "pg")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    try:
        assert metrics.rouge(said, gold) == pytest.approx(1 / 600, abs=1e-7)
    finally:
        sys.setrecursionlimit(limit)


def test_rouge_zh():
    # 我 来到 北京 清华大学 | 北京 清华大学: two words in order of four and of two.
    assert metrics.rouge_zh("我来到北京清华大学", "北京清华大学") == pytest.approx(2 / 3, abs=2e-8)


@pytest.mark.parametrize(
    ("prediction", "classes", "expected"),
    [
        ("It is junk food", ["food", "junk food", "drink"], 1.0),  # `food` is a part of the gold
        ("junk food and drink", ["drink", "junk food"], 0.5),
        ("drink", ["drink", "junk food"], 0.0),
        ("nothing of it", ["drink", "junk food"], 0.0),
        ("junk food", ["food", "junk", "junk food"], 0.5),  # the quirk: `junk` follows the dropped `food`
        ("junk food", ["food", "junk food", "junk"], 1.0),
    ],
)
def test_classification(prediction, classes, expected):
    assert metrics.classification(prediction, "junk food", classes) == expected


def test_numbers_count_by_their_share():
    assert metrics.retrieval("Paragraph 15, perhaps 3", "Paragraph 15") == 0.5
    assert metrics.retrieval("Paragraph 015", "Paragraph 15") == 0.0
    assert metrics.retrieval("no idea", "Paragraph 15") == 0.0
    assert metrics.retrieval_zh("段落27", "段落27") == 1.0
    assert metrics.count("1, 2, 3, 8", "8") == 0.25
    with pytest.raises(LongBenchError, match="'seven' names no paragraph"):
        metrics.retrieval("7", "seven")


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("\n```java\n// adds\nint a;\nint b;", "int a;", 1.0),  # the first line that is neither fence nor comment
        ("abc", "abd", 0.67),  # whole percents
        ("tide", "diet", 0.25),  # difflib's; the edit ratio would be 0.5
        ("# only a comment", "x", 0.0),
        ("", "x", 0.0),
        ("", "", 1.0),
        ("  \nx", "x", 0.0),  # blanks are a line
    ],
)
def test_code_similarity(prediction, answer, expected):
    assert metrics.code_similarity(prediction, answer) == expected


def test_the_best_answer_counts_and_of_few_shot_tasks_the_first_line():
    assert score.score_prediction(tasks.task("triviaqa"), "\nParis\nRome", ["Rome", "Paris"]) == 1.0
    assert score.score_prediction(tasks.task("hotpotqa"), "\nParis\nRome", ["Rome", "Paris"]) == pytest.approx(2 / 3)


# --- folders, the command line and bad input ---


def test_score_prints_json_by_task(tmp_path, capsys):
    write(tmp_path / "lcc.jsonl", GOOD | {"pred": "abc", "answers": ["abd"]})
    write(tmp_path / "2wikimqa.jsonl", GOOD, GOOD | {"pred": "x"}, GOOD | {"pred": "x"})
    (tmp_path / "result.json").write_text("{}")
    assert main(["--score", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert list(json.loads(printed.out).items()) == [("2wikimqa", 33.33), ("lcc", 67.0)] and printed.err == ""


def test_score_by_length(tmp_path, capsys):
    write(tmp_path / "qasper.jsonl", GOOD, GOOD | {"pred": "x"}, GOOD | {"length": 4000}, GOOD | {"length": 7999})
    assert main(["--score", str(tmp_path), "--e"]) == 0
    assert json.loads(capsys.readouterr().out) == {"qasper": {"0-4k": 50.0, "4-8k": 100.0, "8k+": None}}
    del (short := dict(GOOD))["length"]
    write(tmp_path / "qasper.jsonl", GOOD, short)
    assert main(["--score", str(tmp_path), "--e"]) == 1
    assert "qasper: a sample has no 'length'" in capsys.readouterr().err


def test_score_v2_results(tmp_path, capsys):
    row = {"answer": "B", "difficulty": "easy", "length": "short", "response": "The correct answer is (B)."}
    rest = {"answer": "C", "difficulty": "hard", "length": "medium"}
    write(tmp_path / "model.jsonl", row, row | {"response": "B"}, rest | {"pred": "C"}, rest | {"pred": None})
    assert main(["--score", str(tmp_path), "--v2"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "model": {"overall": 50.0, "easy": 50.0, "hard": 50.0, "short": 50.0, "medium": 50.0, "long": None}
    }
    write(tmp_path / "model.jsonl", row | {"length": 12})
    assert main(["--score", str(tmp_path), "--v2"]) == 1
    assert "model.jsonl:1: 'length' is not a string" in capsys.readouterr().err


def test_the_module_runs_as_a_program(tmp_path, root):
    write(tmp_path / "hotpotqa.jsonl", GOOD)
    command = [sys.executable, "-W", "error", "-m", "python_eval.longbench", "--score", str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, {"hotpotqa": 100.0}, "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"pred": "x"', "not JSON: Expecting ',' delimiter"),
        ("", "not JSON: Expecting value"),
        ("[" * 100_000, "not JSON: "),
        ('"pred"', "not a JSON object"),
        ('{"answers": ["x"]}', "'pred' is missing"),
        ('{"pred": 3, "answers": ["x"]}', "'pred' is not a string"),
        ('{"pred": "x", "answers": "x"}', "'answers' is not a list of strings"),
        ('{"pred": "x", "answers": []}', "'answers' is empty"),
        ('{"pred": "x", "answers": ["x"], "all_classes": [1]}', "'all_classes' is not a list of strings"),
        ('{"pred": "x", "answers": ["x"], "length": true}', "'length' is not an integer"),
    ],
)
def test_a_malformed_line_is_named(line, message, tmp_path, capsys):
    path = write(tmp_path / "qasper.jsonl", GOOD, line, GOOD)
    assert main(["--score", str(tmp_path)]) == 1
    assert f"{path}:2: {message}" in capsys.readouterr().err


def test_a_broken_character_is_named_by_its_line(tmp_path, capsys):
    path = write(tmp_path / "vcsum.jsonl", GOOD)
    path.write_bytes(path.read_bytes() + b'{"pred": "\xff"}\n')
    assert main(["--score", str(tmp_path)]) == 1
    assert f"{path}:2: not JSON: 'utf-8' codec can't decode" in capsys.readouterr().err


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path):
    path = write(tmp_path / "lcc.jsonl", GOOD | {"pred": "a\u2028b\x85"})
    assert [sample.pred for sample in data.read_predictions(path)] == ["a\u2028b\x85"]


@pytest.mark.parametrize("name, wrong, message", [
    ("trec", {"all_classes": None}, "'all_classes' is not a list of strings"),
    ("trec", {"all_classes": []}, "'all_classes' is empty"),
    ("lsht", {}, "'all_classes' is missing"),
    ("passage_retrieval_en", {"answers": ["Paragraph 3", "seven"]}, "the answer 'seven' names no paragraph"),
    ("passage_retrieval_zh", {"answers": ["Paragraph 3"]}, "the answer 'Paragraph 3' names no paragraph"),
])  # fmt: skip
def test_what_a_tasks_score_needs_is_asked_for_by_line(tmp_path, capsys, name, wrong, message):
    good = {"pred": "Rome", "answers": ["Paragraph 3", "段落3"], "all_classes": ["Paragraph 3"]}
    if name.startswith("passage"):
        good["answers"] = good["answers"][:1] if name.endswith("en") else good["answers"][1:]
    bad = {key: value for key, value in good.items() if key != "all_classes" or wrong} | wrong
    path = write(tmp_path / f"{name}.jsonl", good, bad)
    assert main(["--score", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"longbench: {path}:2: {message}\n"
    samples = [row | {"context": "x", "input": "y"} for row in (good, bad)]
    write(tmp_path / f"{name}.jsonl", *samples)
    with pytest.raises(LongBenchError, match=f":2: {message}"):
        data.read_samples(tmp_path, tasks.task(name))


def test_a_question_of_v2_has_one_of_four_answers(tmp_path):
    row = dict.fromkeys((*tasks.V2_FIELDS, "difficulty", "length", "_id"), "x")
    with pytest.raises(LongBenchError, match=":2: 'answer' is 'E', expected one of A, B, C, D"):
        data.read_v2(write(tmp_path / "v2.jsonl", row | {"answer": "A"}, row | {"answer": "E"}))


def test_folders_that_cannot_be_scored(tmp_path, capsys):
    for folder, message in [
        (tmp_path / "nowhere", "nowhere: no such folder"),
        (write(tmp_path / "empty" / "result.json").parent, "empty: no .jsonl files"),
        (write(tmp_path / "unknown" / "nq.jsonl", GOOD).parent, "unknown LongBench task 'nq'"),
        (write(tmp_path / "none" / "trec.jsonl").parent, "trec.jsonl: no predictions"),
    ]:
        assert main(["--score", str(folder)]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as wrong:
        main([])
    assert wrong.value.code == 2


def test_a_missing_data_file_is_named(tmp_path):
    with pytest.raises(LongBenchError, match="nowhere: no such folder"):
        data.read_samples(tmp_path / "nowhere", tasks.task("trec"))
    with pytest.raises(LongBenchError, match=r"trec_e\.jsonl: no such file"):
        data.read_samples(tmp_path, tasks.task("trec"), e=True)
