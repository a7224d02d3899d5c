"""Images, texts and labels: from what people send to what the model takes, and back."""
