"""Route by SGLang's functions in torch."""
