"""Training by a recipe."""

from hf_sparse.renamed import renamed_module

renamed_module("hf_sparse.training.loading", {"load_trained": "hf_sparse.load_model"})
renamed_module(
    "hf_sparse.training.post_training",
    {
        name: f"hf_sparse.oneshot.quantize_trained.{name}"
        for name in ("calibration_recipe", "quantize_trained", "save_quantized")
    },
)
