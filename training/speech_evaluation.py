"""The evaluation of networks for speech."""

from models.checkpoint import Checkpoint
from models.wavenet import WaveNet
from training import card as cards
from training import hearing, listening
from training.evaluation import Evaluation
from training.speech import SpeechDataset


def evaluate_speech(loaded: Checkpoint, dataset: SpeechDataset) -> Evaluation:
    """Measure a network for speech on the held-out clips."""
    assert isinstance(loaded.model, WaveNet)
    heard = listening.listen(loaded.model, dataset, listening.TEMPERATURES)
    how = {**hearing.how(dataset), **heard.how, "temperature": heard.temperature, "temperatures": heard.rows}
    how["shown"] = [{"name": clip.name, "text": clip.text} for clip in heard.shown]
    metrics = cards.rounded(hearing.measure(loaded.model, dataset))
    return Evaluation(metrics, how, None, clips=heard.shown, temperature=heard.temperature)
