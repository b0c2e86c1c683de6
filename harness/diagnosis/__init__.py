"""From a failed output to statistics, pattern, first wrong stage and cause."""
