"""What the card of a model of captioned pictures says that other cards do not."""

from collections.abc import Mapping
from typing import Any

from training import illustration, reconstruction

MEANINGS = {**reconstruction.MEANINGS, **illustration.MEANINGS}
ATTRIBUTION = (
    "The emoji are pictures of two sets: Noto Emoji by Google, Apache-2.0, and Twemoji, Copyright 2020 Twitter, Inc "
    "and other contributors, [CC-BY 4.0](https://creativecommons.org/licenses/by/4.0/); scaled down to 32x32 and put "
    "on white. What this model draws may be near to them: give the same credit where you show it."
)


def reconstructs(card: Mapping[str, Any]) -> bool:
    """Whether the card is that of a discrete autoencoder."""
    return "psnr" in card.get("metrics", {})


def is_captioned(card: Mapping[str, Any]) -> bool:
    """Whether the card is that of a model of captioned pictures."""
    return reconstructs(card) or "animal_found" in card.get("metrics", {})


def samples(card: Mapping[str, Any]) -> str:
    """What samples.png shows."""
    image = "![Unpicked samples](samples.png)\n\n"
    if reconstructs(card):
        return (
            f"{image}Pictures, each row followed by what comes back from its codes: first scenes that are held out, "
            "then emoji; spread evenly over the data, none left out."
        )
    how = card["evaluation"]
    captions, columns = how["captions"], illustration.COLUMNS
    rows = [captions[start : start + columns] for start in range(0, len(captions), columns)]
    listed = "\n".join(f"{number}. {'; '.join(row)}" for number, row in enumerate(rows, 1))
    return (
        f"{image}Unpicked samples, one picture a caption, drawn with the noise of seed {how['seed']}, none left out. "
        "The upper half are combinations that the training has never seen, the lower half emoji that it has. Row by "
        f"row:\n\n{listed}"
    )


def how_measured(card: Mapping[str, Any]) -> str:
    """How the figures were taken."""
    how = card["evaluation"]
    return _how_reconstructed(how) if reconstructs(card) else _how_drawn(card, how)


def _how_reconstructed(how: Mapping[str, Any]) -> str:
    return (
        f"Measured with the committed fp16 weights computed in {how['dtype']} on {how['scenes']:,} scenes of "
        f"silhouettes and combinations that are held out, and on all {how['emoji']:,} pictures of emoji, which the "
        "training has seen: what is to be drawn has to be known."
    )


def _how_drawn(card: Mapping[str, Any], how: Mapping[str, Any]) -> str:
    share = card["training_data"]["held_out"]
    rows = ["| guidance | temperature | animal found | colours found | emoji found |", "|---|---|---|---|---|"]
    for p in how["curve"]:
        shares = " | ".join(f"{p[name]:.3f}" for name in illustration.CHOOSING)
        rows.append(f"| {p['guidance']:g} | {p['temperature']:g} | {shares} |")
    return (
        f"Measured with the committed fp16 weights computed in {how['dtype']} on {how['count']:,} unpicked pictures, "
        f"drawn by `{how['decoder']}`: as many of every combination of animal, colour and background that is held out "
        f"({share:.0%} of all) at each size, at guidance and temperature as a request that names none gets them. These "
        f"were chosen on {how['tried']:,} pictures each for combinations that the training has seen and "
        f"{how['named']:,} for emoji (the table below), where the product of the three shares is greatest. "
        "Colours are found by arithmetic: the median of the edge and of what stands out from it, and the named colours "
        f"nearest to them. The animal is found by the judge `{how['judge']}`, which sees the shape alone, cut out by "
        "these two colours; it has seen the "
        "silhouettes of the training split and none of the network's pictures, and chose guidance and temperature. "
        f"Bits per code, taken in float32, are those of {how['scenes']:,} scenes of silhouettes and combinations that "
        f"are held out, and of {how['emoji']:,} emoji that are not.\n\n" + "\n".join(rows)
    )


def limits(card: Mapping[str, Any]) -> str:
    """What the model is for, and what it is not."""
    purpose = "For demonstrations, tests and teaching of generative models and of the server. "
    if reconstructs(card):
        return (
            f"{purpose}It draws the codes that a model of its codes writes, and takes pictures of 32x32 back to codes; "
            "codes at random make no picture. A picture is 64 codes of 10 bits: fine lines, small letters and the "
            "details of flags are lost. Pictures unlike its data come back badly."
        )
    return (
        f"{purpose}It knows two kinds of captions: ten animals in ten colours at two sizes on backgrounds of another "
        "colour, which it combines as it has never seen them; and emoji by their names and keywords, in two styles. "
        "**Emoji were measured and are shown with captions that the training has seen**: a caption of emoji that does "
        "not exist gives something between its neighbours at best. Word order beyond that, numbers, places and "
        "negations mean nothing to it. Pictures of people are those of the emoji sets, with what these chose to show."
    )
