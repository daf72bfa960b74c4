"""The table of all generators and their unpicked samples: `python -m training.gallery [--url URL] [--check]`.

With --url, a running service is asked for the samples anew; the pages are written from the cards, the samples and the
measured throughput. Exit status: 0, or 1 with one line for each thing that is wrong or, with --check, out of date.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.errors import CheckpointError
from models.files import write_atomically
from training import catalogue, exhibits
from training.catalogue import Generator
from training.errors import TrainingError
from training.exhibits import Exhibit, Exhibits

ROOT = Path(__file__).parents[1]
WEIGHTS, PAGE, README = "weights", "docs/generators.md", "README.md"
SAMPLES = "docs/gallery"
THROUGHPUT = "benchmarks/results/throughput.json"
BEGIN, END = "<!-- generators: written by python -m training.gallery -->", "<!-- end of generators -->"

INTRO = """# The generators of the service

Written by `python -m training.gallery` from the cards of `weights/` and `benchmarks/results/throughput.json`; do not
edit by hand. Served: what one service on {machine} gives {clients} clients that ask for one thing at a time
(`python -m benchmarks.throughput`). Quality is what `training.evaluate` measured; each card says how, and what it
means."""
SAMPLED = """## Samples

Unpicked: the first seeds, as a running service answered the request above each of them."""


class Gallery:
    """The pages of a repository, and what they are written from."""

    def __init__(self, root: Path) -> None:
        """Nothing is written yet.

        Raises:
            TrainingError, CheckpointError: the weights can't be read.
        """
        self._root = root
        self._generators = catalogue.generators(root / WEIGHTS)
        self._served = catalogue.throughput(root / THROUGHPUT)

    def fetch(self, url: str) -> None:
        """Ask a running service for all samples anew.

        Raises:
            TrainingError: it refuses, fails, or serves other weights.
        """
        folder = self._root / SAMPLES
        folder.mkdir(parents=True, exist_ok=True)
        found = {}
        for generator in self._generators:
            print(generator.name, file=sys.stderr, flush=True)
            found[generator.name] = exhibits.fetch(url, generator, folder)
        exhibits.write_index(folder, found)
        kept = {exhibits.INDEX_FILE, *(file for one in found.values() for file in _files(one))}
        for path in folder.iterdir():  # of generators that are no more
            if path.name not in kept and path.suffix in (".png", ".wav"):
                path.unlink()

    def pages(self) -> dict[Path, str]:
        """What has to be in which file.

        Raises:
            TrainingError: a generator's paper is unknown, or the README has no place for the table.
        """
        readme = self._root / README
        return {self._root / PAGE: self._page(), readme: self._in_readme(readme.read_bytes().decode())}

    def stale(self) -> list[str]:
        """What is out of date, a line each."""
        found = [f"{path}: out of date" for path, text in self.pages().items() if not _holds(path, text)]
        shown = exhibits.read_index(self._root / SAMPLES)
        for generator in self._generators:
            one = shown.get(generator.name)
            if one is None or one.digest != generator.config.digest:
                found.append(f"{SAMPLES}: no samples of {generator.identity}; fetch them with --url")
            else:
                found += [f"{SAMPLES}/{file}: missing" for file in _files(one) if not self._has(file)]
        return found

    def _has(self, file: str) -> bool:
        return (self._root / SAMPLES / file).is_file()

    def _page(self) -> str:
        shown = exhibits.read_index(self._root / SAMPLES)
        table = catalogue.table(self._generators, self._served, "../" + WEIGHTS)
        sections = [_section(one, shown[one.name]) for one in self._generators if one.name in shown]
        return "\n\n".join([INTRO.format(**self._measured()), table, SAMPLED, *filter(None, sections)]) + "\n"

    def _measured(self) -> Mapping[str, str]:
        """On what the throughput was measured."""
        machines = {f"{one['machine']['cores']} cores ({one['machine']['cpu']})" for one in self._served.values()}
        clients = {str(one["clients"]) for one in self._served.values()}
        return {"machine": _several(machines) or "a machine", "clients": _several(clients) or "8"}

    def _in_readme(self, text: str) -> str:
        if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
            raise TrainingError(f"{README}: the table belongs between the lines {BEGIN} and {END}, once")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        return f"{before}{BEGIN}\n{catalogue.table(self._generators, self._served, WEIGHTS)}\n{END}{after}"


def _several(words: set[str]) -> str:
    return " and ".join(sorted(words))


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _files(one: Exhibits) -> list[str]:
    return [file for shown in one.shown for file in (shown.file, shown.picture) if file]


def _section(generator: Generator, found: Exhibits) -> str:
    """What is shown of a generator; "" for nothing."""
    if not found.shown:
        return ""
    description = generator.config.card.get("description", "")
    parts = [part for shown in found.shown for part in _shown(generator, shown)]
    return "\n\n".join([f"### {generator.name}", description, *parts])


def _shown(generator: Generator, exhibit: Exhibit) -> list[str]:
    """A request and its answer."""
    asked = f"`POST {exhibit.path} {json.dumps(exhibit.body)}`"
    folder = Path(SAMPLES).name
    if exhibit.texts:
        return [asked, *map(_fenced, exhibit.texts)]
    if exhibit.picture:
        return [asked, f"[listen]({folder}/{exhibit.file})", f"![spectrogram]({folder}/{exhibit.picture})"]
    return [asked, f"![{generator.name}]({folder}/{exhibit.file})"]


def _fenced(text: str) -> str:
    """A text that nothing in it can get out of."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}text\n{text}\n{fence}"


def run(root: Path, url: str | None, *, check: bool) -> list[str]:
    """Do what is asked; what is out of date afterwards.

    Raises:
        TrainingError, CheckpointError, OSError: something is wrong.
    """
    gallery = Gallery(root)
    if url is not None:
        gallery.fetch(url)
    if not check:
        for path, text in gallery.pages().items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text.encode())
    return gallery.stale()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.gallery", description="Write the pages of all generators."
    )
    parser.add_argument(
        "--url", help="a running service that makes the samples anew (default: keep those that are there)"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; say what is out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.check and options.url is not None:
        parser.error("--check writes nothing, --url fetches: not both")
    try:
        stale = run(options.root, options.url, check=options.check)
    except (TrainingError, CheckpointError, OSError) as error:
        stale = [f"error: {error}"]
    for line in stale:
        print(line, file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
