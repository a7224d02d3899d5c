"""What a checkpoint of Megatron-LM's is: the tensors of all ranks as one model's, and the class of transformers that
computes the same."""
