"""Values in the layer's own dtype: no codes, no scales."""
