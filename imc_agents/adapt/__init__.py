"""Few-shot adaptation of image encoders (RobustMedCLIP), and how well they know classes without any training."""
