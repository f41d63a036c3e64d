"""The pictures people look at: arrays and the data set's Legend in, a PNG file out, no global state left changed."""

from cluemap.figures.border_errors import border_errors
from cluemap.figures.class_scores import class_scores, confusion_matrix, scored_labels
from cluemap.figures.curves import learning_curve, threshold_curve, training_curves
from cluemap.figures.date_weights import temporal_weights
from cluemap.figures.images import assemble, clearest_date, label_picture, true_colour
from cluemap.figures.overview import overview
from cluemap.figures.patch_maps import mosaic
from cluemap.figures.time_courses import even_share_weights, ndvi_course
from cluemap.figures.window_panel import WindowView, window_panel

__all__ = [
    "WindowView",
    "assemble",
    "border_errors",
    "class_scores",
    "clearest_date",
    "confusion_matrix",
    "even_share_weights",
    "label_picture",
    "learning_curve",
    "mosaic",
    "ndvi_course",
    "overview",
    "scored_labels",
    "temporal_weights",
    "threshold_curve",
    "training_curves",
    "true_colour",
    "window_panel",
]
