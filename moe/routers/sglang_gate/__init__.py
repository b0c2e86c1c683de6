"""Route by SGLang's Triton kernel `moe_fused_gate`."""
