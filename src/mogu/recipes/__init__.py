"""The recipes, chat templates, model shapes and configs of machines that come with the package.

Importing this package imports no PyTorch.
"""

from mogu.recipes.shipped import (
    ShippedRecipe,
    copy_shipped,
    find_recipe,
    find_template,
    model_shape,
    shipped_machines,
    shipped_recipe,
    shipped_recipes,
    shipped_template,
    shipped_templates,
)

__all__ = [
    "ShippedRecipe",
    "copy_shipped",
    "find_recipe",
    "find_template",
    "model_shape",
    "shipped_machines",
    "shipped_recipe",
    "shipped_recipes",
    "shipped_template",
    "shipped_templates",
]
