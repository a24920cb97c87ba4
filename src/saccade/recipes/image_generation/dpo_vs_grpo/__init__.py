"""DPO and GRPO on image tokens."""
