"""The choice of subclusters K_c for the objective gmvae."""
