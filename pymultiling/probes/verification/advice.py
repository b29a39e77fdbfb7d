"""What to do about a departure, at the end of its sentence."""

WEIGHT = "merge what its class, forward or hooks add into its weight, or leave this site out"
OUTPUT = "remove the hook or forward that changes it, or leave this site out"
SCORES = (
    "load the model with attn_implementation='eager', correct its configuration or the family's entry (register_family)"
    ", or leave q and k out"
)
CLIP = "set `clip` in the family's entry (register_family), or leave q and k out"
PRODUCT = (
    "correct `activation` or the projections in the family's entry (register_family); importance can be measured with "
    "fused=False where only the activation differs"
)
OPERATOR = "report the model and its dtype; importance can be measured with fused=False"
BODY = "give the base model instead (model.base_model), if its own forward is to be measured"
ONCE = "use transformers' own forward, with modules of its own in every layer, or leave this site out"
CALL = "use transformers' own forward, or leave this site out"
