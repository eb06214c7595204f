"""The command line: ``python -m skleepkd``, or ``skleepkd``."""

import argparse
import sys
import warnings
from contextlib import suppress

import skleepkd
from skleepkd.recording.folder import heed_warnings_of_nights


def main(argv=None):
    """Run a command; return 0, 1 if a night was not staged, or 2 if nothing could be done."""
    options = _parser().parse_args(argv)
    with warnings.catch_warnings():
        heed_warnings_of_nights()
        warnings.showwarning = _show_warning
        try:
            return options.run(options)
        except KeyboardInterrupt:
            print("Stopped. The same command goes on from here.", file=sys.stderr)
            return 130
        except (OSError, ValueError, TypeError, ImportError) as error:
            print(f"skleepkd: error: {_one_line(error)}", file=sys.stderr)
            return 2


def _parser():
    parser = argparse.ArgumentParser(
        "skleepkd", description="Stage recordings of sleep with a stager that was saved."
    )
    parser.add_argument(
        "--version", action="version", version=f"skleepkd {skleepkd.__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    stage = commands.add_parser(
        "stage",
        help="stage recordings into a folder",
        description="Stage recordings into a folder: for each NAME_events.tsv (BIDS) and "
        "NAME_hypnogram.png, and summary.csv, a row for each. Called again it goes on: a "
        "night that is there, of the same file and the same model, is not staged again.",
        epilog="Exit status: 0 if all nights are staged, 1 if some are not (they are named), 2 "
        "if nothing could be done.",
    )
    stage.add_argument("model", metavar="MODEL", help="a file that skleepkd.save wrote")
    stage.add_argument(
        "files",
        metavar="FILES",
        nargs="+",
        type=_path,
        help="recordings (EDF, BDF, BrainVision, EEGLAB, FIF, ...), or folders of them",
    )
    stage.add_argument(
        "--output", metavar="FOLDER", required=True, type=_path, help="where to write"
    )
    stage.add_argument(
        "--start",
        metavar="WHEN",
        help="where the first epoch begins: seconds from the first sample, or a time of the "
        "recorder's clock, 23:15 or 23:15:30; by default the first sample",
    )
    stage.add_argument(
        "--channel",
        metavar="NAME",
        action="append",
        help="the channel that takes the place of the model's first one, then of the second, "
        "..., where the recordings have other names; give all of them",
    )
    stage.add_argument(
        "--on-missing",
        choices=["raise", "zeros"],
        default="raise",
        help="whether a night that lacks a channel is an error (the default), or is staged with "
        "zeros by a model that was trained with channel dropout",
    )
    stage.add_argument("--no-picture", action="store_true", help="draw no hypnograms")
    stage.set_defaults(run=_stage)

    about = commands.add_parser(
        "describe",
        help="tell where a model comes from and what it needs",
        description="Tell where a model comes from, what it predicts, and which channels, "
        "sampling rate and preprocessing it needs.",
    )
    about.add_argument("model", metavar="MODEL", help="a file that skleepkd.save wrote")
    about.set_defaults(run=_describe)
    return parser


def _path(text):
    if not text:  # as of a variable that is not set: the working folder would be meant
        raise argparse.ArgumentTypeError("an empty name")
    return text


def _stage(options):
    stager = skleepkd.load(options.model)
    if not isinstance(stager, skleepkd.RecordingStager):
        stager = skleepkd.RecordingStager(stager)
    if options.channel:
        stager.set_params(ch_names=options.channel)
    start = options.start
    with suppress(TypeError, ValueError):  # none, or a time of the clock
        start = float(start)
    summary = stager.stage_folder(
        options.files,
        options.output,
        start=start,
        on_missing=options.on_missing,
        picture=not options.no_picture,
    )
    n_failed = int(summary["error"].notna().sum())
    print(f"{len(summary) - n_failed} nights in {options.output}, listed in summary.csv")
    return 1 if n_failed else 0


def _describe(options):
    print(skleepkd.describe(skleepkd.load(options.model)))
    return 0


def _one_line(error):
    return " ".join(str(error).split()) or type(error).__name__


def _show_warning(message, category, filename, lineno, file=None, line=None):
    print(f"skleepkd: {_one_line(message)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
