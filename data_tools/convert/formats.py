"""The formats that `convert` knows: what is read, and which files of a download that means."""

from __future__ import annotations

from dataclasses import dataclass

from data_tools.convert.easy_vqa import read_easy_vqa
from data_tools.convert.gqa import read_gqa
from data_tools.convert.json_lines import read_json_lines
from data_tools.convert.nlvr import read_nlvr, read_nlvr2
from data_tools.convert.questions import Reader
from data_tools.convert.vizwiz import read_vizwiz
from data_tools.convert.vqav2 import read_vqav2


@dataclass(frozen=True, slots=True)
class QuestionFormat:
    """A data set of questions; `files` says where its download has what is asked for."""

    read: Reader
    title: str
    files: str
    has_annotations: bool = False  # the answers are in a file of their own


@dataclass(frozen=True, slots=True)
class CaptionFormat:
    """A data set of captions, read as `make` reads it."""

    title: str
    files: str
    has_restval: bool = False  # Karpathy's split of that name may occur
    is_table: bool = False  # of one's own: columns and delimiter may have to be told


QUESTION_FORMATS: dict[str, QuestionFormat] = {
    "vqav2": QuestionFormat(
        read_vqav2,
        "VQAv2: questions about COCO photos, ten answers each",
        """
--questions    v2_OpenEnded_mscoco_train2014_questions.json
--annotations  v2_mscoco_train2014_annotations.json (a test set has none: --allow-unanswered)
--images       the folder of COCO_train2014_000000000009.jpg, or of 000000000009.jpg""",
        has_annotations=True,
    ),
    "gqa": QuestionFormat(
        read_gqa,
        "GQA: compositional questions",
        """
--questions    train_balanced_questions.json (val_, testdev_; test_ with --allow-unanswered)
--images       the folder of <imageId>.jpg""",
    ),
    "vizwiz": QuestionFormat(
        read_vizwiz,
        "VizWiz: questions of blind people about their photos, ten answers each",
        """
--questions    train.json or val.json (test.json with --allow-unanswered)
--images       the folder of VizWiz_train_00000000.jpg""",
    ),
    "easy_vqa": QuestionFormat(
        read_easy_vqa,
        "easy-VQA: questions about one coloured shape",
        """
--questions    train/questions.json or test/questions.json
--images       train/images; taken from beside the questions, if not given""",
    ),
    "nlvr": QuestionFormat(
        read_nlvr,
        "NLVR: sentences, true or false of a drawing of three boxes",
        """
--questions    dev/dev.json, a JSON object a line
--images       dev/images, which holds folders of dev-1572-0-0.png. Each order of the boxes
               (-0 to -5) whose picture is there becomes a sample.""",
    ),
    "nlvr2": QuestionFormat(
        read_nlvr2,
        "NLVR2: sentences, true or false of two photos",
        """
--questions    train.json, dev.json or test1.json, a JSON object a line
--images       the folder of dev-850-0-img0.png and dev-850-0-img1.png, or the one above
               (images/dev, images/train/<directory>). A sample is KEY.0.png and KEY.1.png.""",
    ),
    "jsonl": QuestionFormat(
        read_json_lines,
        "questions of your own, a JSON object a line",
        """
--questions    lines of {"image": "a.jpg", "question": "what is it?", "answer": "a cat"}.
               `image` may be a list of two; `answers` may stand for `answer`: a list of texts, or
               {text: weight}. Also: question_id, question_type, answer_type, group (what
               consistency is taken over), image_id, label (the picture's class).
--images       the folder that the names are in""",
    ),
}

CAPTION_FORMATS: dict[str, CaptionFormat] = {
    "coco": CaptionFormat(
        "COCO captions: COCO's own files, or Karpathy's splits of them",
        """
--captions     captions_train2017.json and the like, or Karpathy's dataset_coco.json with --split
--images       the folder of the photos, or for Karpathy's the one above train2014 and val2014""",
        has_restval=True,
    ),
    "flickr30k": CaptionFormat(
        "Flickr30k: five captions a photo",
        """
--captions     Karpathy's dataset_flickr30k.json with --split; or results_20130124.token or
               results.csv, of which --only FILE takes the photos that a file lists
--images       the folder of the photos""",
        has_restval=True,
    ),
    "flickr8k": CaptionFormat(
        "Flickr8k: five captions a photo",
        """
--captions     Flickr8k.token.txt with --only Flickr_8k.trainImages.txt (devImages, testImages);
               or Karpathy's dataset_flickr8k.json with --split
--images       the folder of the photos""",
        has_restval=True,
    ),
    "csv": CaptionFormat(
        "captions of your own in a table: CSV, TSV or Parquet",
        """
--captions     a table with a column that names the picture and one that holds the caption; a
               picture's rows become one sample. A column `split` is what --split chooses by.
--images       the folder that the names are in""",
        is_table=True,
    ),
}
