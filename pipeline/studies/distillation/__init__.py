"""The study of knowledge distillation: schedules, history needed, teachers."""
