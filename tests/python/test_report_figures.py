"""What a report's figures show: the numbers of the files, point by point."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="requirements/eval.txt is not installed")
pytest.importorskip("optuna", reason="requirements/eval.txt is not installed")

from python_eval.report import ablation_plots, cache_plots, fidelity_plots, front_plots, search_plots, style, task_plots


@pytest.fixture
def axes_of(monkeypatch):
    """Draws a figure and gives what a look at its axes says; figures are closed once they are pictures."""

    def draw(plot, look):
        seen = []
        module = __import__(plot.__module__, fromlist=["picture"])
        monkeypatch.setattr(module, "picture", lambda figure, *_: seen.append(look(figure)))
        plot("name", *draw.arguments)
        return seen[0]

    return draw


def test_binned_divergence_by_hand():
    kl = np.array([[1.0, 3.0, 5.0, 7.0], [3.0, 5.0, 5.0, 7.0]])
    at, mean, se = fidelity_plots.binned(kl, 2)
    assert at.tolist() == [1.0, 3.0] and mean.tolist() == [3.0, 6.0]
    assert se == pytest.approx([1.0, 0.0])  # two windows: half of the difference of 2 and 4, and of 6 and 6
    assert fidelity_plots.binned(kl[:1], 2)[2] is None and len(fidelity_plots.binned(kl, 99)[0]) == 4


def test_growth_stacks_up_to_the_total(axes_of):
    caches = {"x": {"n_tokens": [10, 20], "bytes": {"codes": [0, 2**21], "tail": [2**20, 0], "total": [2**20, 2**21]}}}
    axes_of.arguments = (caches, 2**20 / 5)
    tops, line = axes_of(
        cache_plots.growth,
        lambda figure: (
            [max(path.vertices[:, 1].max() for path in one.get_paths()) for one in figure.axes[0].collections],
            figure.axes[0].lines[0].get_ydata().tolist(),
        ),
    )
    assert tops == [2.0, 2.0] and line == [2.0, 4.0]  # MiB


def test_the_front_is_joined_and_points_are_named(axes_of):
    points = [front_plots.Point("a", 4, 0.1), front_plots.Point("b", 5, 0.2), front_plots.Point("c", 6, 0.01, 0.001)]
    axes_of.arguments = (points, "here")
    names, front, limits = axes_of(
        front_plots.divergence_against_bits,
        lambda figure: (
            [text.get_text() for text in figure.axes[0].texts],
            [tuple(map(float, xy)) for xy in figure.axes[0].lines[-1].get_xydata()],
            figure.axes[0].get_yscale(),
        ),
    )
    assert sorted(names) == ["a", "b", "c"] and front == [(4.0, 0.1), (6.0, 0.01)] and limits == "log"


def test_bars_carry_scores_and_paired_errors(axes_of):
    rows = [{"task": "qasper", "f16": 40.0, "livekv": 39.0, "livekv - f16": {"mean": -1.0, "se": 0.5}}]
    axes_of.arguments = (rows, ["f16", "livekv"])
    heights, whiskers, ticks = axes_of(
        task_plots.task_bars,
        lambda figure: (
            [bar.get_height() for bar in figure.axes[0].patches],
            [one.get_segments()[0][:, 1].tolist() for one in figure.axes[0].collections],
            [tick.get_text() for tick in figure.axes[0].get_xticklabels()],
        ),
    )
    assert heights == [40.0, 39.0] and whiskers == [[38.5, 39.5]] and ticks == ["qasper"]


def test_without_a_standard_error_there_is_no_whisker(axes_of):
    rows = [{"task": "qasper", "f16": 40.0, "livekv": 39.0, "livekv - f16": {"mean": -1.0, "se": None}}]
    axes_of.arguments = (rows, ["f16", "livekv"])
    (whisker,) = axes_of(
        task_plots.task_bars, lambda figure: [one.get_segments() for one in figure.axes[0].collections]
    )
    assert not any(len(segment) for segment in whisker)


def test_an_ablation_shows_differences_and_bits(axes_of):
    rows = [{"setting": "baseline", "bits_per_value": 4.0, "kl_mean": 0.1, "kl_diff": None}]
    rows += [{"setting": "s", "bits_per_value": 3.0, "kl_mean": 0.3, "kl_diff": {"mean": 0.2, "se": None, "n": 1}}]
    axes_of.arguments = ("study", ["Study: study. Why?"], rows)
    texts, ticks = axes_of(
        ablation_plots.differences,
        lambda figure: (
            [text.get_text() for text in figure.axes[0].texts],
            [tick.get_text() for tick in figure.axes[0].get_yticklabels()],
        ),
    )
    assert texts == ["3.00", "bits (baseline 4.00)"] and ticks == ["s"]


def test_noise_is_shown_by_layer_keys_apart_from_values(axes_of):
    axes_of.arguments = ({"x": {"snr_k": [None, 20.0], "snr_v": [30.0, 31.0]}},)
    keys, values = axes_of(
        cache_plots.layer_noise, lambda figure: [panel.lines[0].get_xydata().tolist() for panel in figure.axes]
    )
    assert np.isnan(keys[0][1]) and keys[1] == [1.0, 20.0] and values == [[0.0, 30.0], [1.0, 31.0]]


def test_channels_and_histograms_show_outliers_apart(axes_of):
    sides = {
        "k": {"dense": [5, 4], "apart": [0, 2], "n_apart": 2, "dots": [[1.0, 9.0], [0.0, 8.0]]},
        "v": {"dense": [3, 6], "apart": [0, 0], "n_apart": 0, "dots": np.zeros((0, 2))},
    }
    arrays = {f"{side}_{name}": np.array(value) for side, one in sides.items() for name, value in one.items()}
    for side in "kv":
        arrays |= {f"{side}_edges": np.array([-9.0, 0.0, 9.0]), f"{side}_quantiles": np.array([[0.0, 1, 2, 3, 4]] * 2)}
    axes_of.arguments = ({"rotation": {"k": 0, "v": 64}, "layer": 1, "label": "x"}, arrays)
    (keys, values, key_bars, value_bars), medians = axes_of(
        cache_plots.distributions,
        lambda figure: (
            [
                axes.collections[-1].get_offsets().tolist() if n < 2 else [one.get_data()[0].tolist() for one in axes.patches]
                for n, axes in enumerate(figure.axes)
            ],
            [axes.lines[0].get_ydata().tolist() for axes in figure.axes[:2]],
        ),
    )
    assert keys == [[1.0, 9.0], [0.0, 8.0]] and values == [] and medians == [[2.0, 2.0]] * 2
    assert key_bars == [[5, 4], [0, 2]] and value_bars == [[3, 6]]


def test_divergence_is_shown_where_it_was_scored(axes_of):
    kl = np.repeat([[0.1, 0.2, 0.3, 0.4], [0.3, 0.4, 0.5, 0.6]], 8, axis=1)  # [2 windows, 32 positions]
    axes_of.arguments = ({"x": kl}, 64, "here", 16)
    at, mean, ends = axes_of(
        fidelity_plots.divergence_by_position,
        lambda figure: (
            *figure.axes[0].lines[0].get_xydata().T.tolist(),
            [one.get_xdata()[0] for one in figure.axes[0].lines[1:]],
        ),
    )
    assert at == [32 + 2 * n + 1 for n in range(16)] and ends == [48]  # the second half, a sixteenth of it each
    assert mean == pytest.approx(np.repeat([0.2, 0.3, 0.4, 0.5], 4))


def test_hypervolume_is_the_mean_over_seeds(axes_of):
    curves = [{"method": "random", "seed": s, "hypervolume": [10.0, 20.0 + 4 * s, 99.0][: 4 - s]} for s in (1, 2)]
    axes_of.arguments = (curves, [16.0, 1.0])
    line, band = axes_of(
        search_plots.hypervolume_over_trials,
        lambda figure: (
            figure.axes[0].lines[0].get_xydata().tolist(),
            figure.axes[0].collections[0].get_paths()[0].vertices[:, 1],
        ),
    )
    assert line == [[1.0, 10.0], [2.0, 26.0]]  # as far as all seeds go
    assert (band.min(), band.max()) == (10.0, 28.0)  # 24 and 28: their mean's error is 2


def test_names_of_near_points_do_not_lie_on_each_other():
    with style.canvas() as (_, axes):
        axes.set_xlim(0, 10)
        axes.set_ylim(0, 10)
        style.label_points(axes, [(5, 5, "first name"), (5.1, 5, "second name"), (5, 5.1, "third name")])
        boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])
