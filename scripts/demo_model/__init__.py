"""Recipe of the small trained model: data, tokenizer, training, evaluation, export."""
