"""SAM2 and SAM2.1 for single images: encoder, prompts, mask decoder, and their checkpoints."""
