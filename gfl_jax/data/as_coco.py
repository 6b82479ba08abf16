"""Converts a source to COCO annotations, for evaluation without an annotation file."""

from typing import Any

from gfl_jax.data.source import Source


def coco_ground_truth(source: Source) -> dict[str, Any]:
    """The annotations of a source as the content of a COCO file; annotation ids count from 1.

    The boxes are those of the source: bad boxes are dropped and the others are clipped to their image.
    """
    table = source.annotations
    images = [
        {"id": image_id, "file_name": file_name, "height": int(height), "width": int(width)}
        for image_id, file_name, (height, width) in zip(
            table.image_ids, table.file_names, table.sizes, strict=True
        )
    ]
    annotations = []
    for i, image in enumerate(images):
        rows = range(*table.rows(i).indices(len(table.boxes)))
        for row in rows:
            x1, y1, x2, y2 = table.boxes[row].astype(float).tolist()
            annotations.append(
                {
                    "id": row + 1,
                    "image_id": image["id"],
                    "category_id": source.category_ids[table.labels[row]],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(table.area[row]),
                    "iscrowd": int(table.is_crowd[row]),
                }
            )
    categories = [
        {"id": category_id, "name": name}
        for category_id, name in zip(source.category_ids, source.categories, strict=True)
        if category_id is not None
    ]
    return {"images": images, "annotations": annotations, "categories": categories}
