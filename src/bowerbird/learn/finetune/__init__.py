"""Fine-tuning: the towers themselves learn, whole or by LoRA, on one machine or several."""
