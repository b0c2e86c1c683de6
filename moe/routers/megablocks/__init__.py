"""Route by the softmax of MegaBlocks' `LearnedRouter`."""
