"""The parts of `attnzoo train`: the recipe, its data and model, what runs beside the steps, what is stored."""
