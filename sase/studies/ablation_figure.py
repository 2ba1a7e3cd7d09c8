"""The figure of an ablation: what each row adds or takes, with its interval, on every set that was scored."""

from sase.plotting import save_figure

_COLOURS = ("C0", "C1")


def draw_differences(rows, titles, path):
    """Draw the difference of every row to the one that it is compared with, a panel for each measure.

    A thick line is the interval, the dot on it the mean, thin strokes are the means of single seeds.

    Args:
        rows: of :func:`sase.studies.ablation_page.summarise`, those with differences.
        titles: measure to the title of its panel.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + 3.2 * len(titles), 1.3 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    sets = list(next(iter(rows.values()))["differences"])
    for axis, (measure, title) in zip(axes, titles.items()):
        axis.axvline(0.0, color="black", linewidth=0.8)
        for shift, (each, colour) in enumerate(zip(sets, _COLOURS)):
            drawn = [
                (place + 0.28 * shift - 0.14, row["differences"][each]["all"][measure])
                for place, row in enumerate(rows.values())
                if measure in row["differences"][each]["all"]
            ]
            for place, told in drawn:
                axis.plot(told["interval"], [place, place], color=colour, linewidth=3, alpha=0.5)
                axis.plot(told["seeds"], [place] * len(told["seeds"]), "|", color=colour, markersize=7)
            means = [told["mean"] for _, told in drawn]
            axis.plot(means, [place for place, _ in drawn], "o", color=colour, markersize=5, label=f"{each} set")
        axis.set_xlabel(title)
        axis.grid(axis="x", alpha=0.3)
        axis.locator_params(axis="x", nbins=5)
    axes[0].set_yticks(range(len(rows)), [f"{name} − {row['against']}" for name, row in rows.items()], fontsize=8)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(sets), fontsize=8)
    save_figure(figure, path)
