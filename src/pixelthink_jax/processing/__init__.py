"""From image files and questions to the arrays a policy reads: images, tokens, prompts, format."""
