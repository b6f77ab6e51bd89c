"""Networks of image pairs (DUSt3R, MASt3R, Reloc3r), and their predictor of a stream."""
