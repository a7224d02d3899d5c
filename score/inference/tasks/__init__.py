"""Tasks: from texts, pairs and pictures to the answers that people expect: labels, spans, boxes, generated text."""
