"""From a composed config to checked settings and objects; the only call of Hydra's instantiate."""
