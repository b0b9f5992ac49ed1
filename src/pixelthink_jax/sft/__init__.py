"""Supervised fine-tuning of any policy on any dataset of prompts and completions: `pixelthink sft`."""
