"""Architectures by name, the operator's own among them."""

import pytest

import models
from models.architecture import build, import_extra_models, served
from models.errors import CheckpointError
from models.gan import ConvGenerator

SMALL = {"latent_dim": 2, "num_classes": 2, "embedding_dim": 2, "channels": [8], "base_size": 2}


def test_build_names_the_architecture():
    assert isinstance(build("conv-gan", SMALL), ConvGenerator)
    with pytest.raises(CheckpointError, match="unknown architecture 'nope'"):
        build("nope", {})


def test_extra_models(tmp_path, monkeypatch):
    (tmp_path / "extra_models_of_a_test.py").write_text(
        "import models, models.gan\nmodels.LATENT_MODELS['mine'] = models.gan.ConvGenerator\n"
    )
    (tmp_path / "broken_models_of_a_test.py").write_text("raise RuntimeError('oh')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(models, "LATENT_MODELS", dict(models.LATENT_MODELS))
    import_extra_models("extra_models_of_a_test")
    assert served()["mine"] is ConvGenerator
    with pytest.raises(CheckpointError, match=r"GENSERVE_MODELS_MODULE=broken_models_of_a_test.*oh"):
        import_extra_models("broken_models_of_a_test")
    with pytest.raises(CheckpointError, match="can't be imported"):
        import_extra_models("no_such_module_of_a_test")
