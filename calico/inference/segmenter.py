"""A group of images in, a co-segmentation out: three questions over one encoding, safe under threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch

from calico.checkpoints.adapter import AdapterCard, find_base, load_adapted
from calico.checkpoints.files import load_checkpoint
from calico.checkpoints.fingerprint import ADAPTER_CARD, EMBEDDED, checkpoint_version, is_adapter
from calico.errors import InputError
from calico.inference.answered_masks import Asked, MaskWriter, restored_logits, restored_masks
from calico.inference.clicks import Clicks, agrees, mask_of_clicks
from calico.inference.closer import Window, for_box, tight_mask, whole
from calico.inference.colours import with_colours
from calico.inference.encodings import EncodingCache, ImageEncoder
from calico.inference.named_parts import Forced, forced_answer, read_forced
from calico.inference.options import ServingOptions
from calico.inference.reconcile import AnsweredMasks, reconcile
from calico.inference.windows import merge, part_of, windows, windows_of
from calico.language.constraint import AnswerConstraint
from calico.language.names import spelled_names
from calico.language.questions import canonical_question, render_prompt
from calico.language.tokenizer import CalicoTokenizer
from calico.model.calico import CalicoModel, ImageFeatures
from calico.model.config import CalicoConfig
from calico.model.generation import AllowedTokens, Answer, LanguageSteps, Prompt, generate
from calico.model.memory import images_that_fit
from calico.model.out_of_memory import in_halves
from calico.model.precision import check_bits, check_device, quantise_llm
from calico.model.preprocessing import Preprocessor, fitted_points
from calico.part_memory.affinity import AffinityHead, AffinityLook
from calico.part_memory.base import BaseMemory
from calico.part_memory.evidence import proposed, remembered
from calico.part_memory.memory import PartMemory, load_memory, reader_of
from calico.part_memory.pyramid import WHOLE_SCALE, PyramidFeatures, PyramidReader
from calico.values import CoSegmentation, ImageGroup, Problem, SubTask, image_digest

DTYPES = {None: None, "float32": torch.float32, "bfloat16": torch.bfloat16}


class PromptedMask(NamedTuple):
    """mask: HxW bool at the image's own size. score: the estimate of its IoU, 0 to 1, by who made it."""

    mask: np.ndarray
    score: float


class CoSegmenter:
    """Holds one model; its methods may be called from any thread. Groups are answered one call at a time; what a person
    waits for, `segment_prompts` and `segment_named`, runs beside them, and waits at most for one batch of images.

    version: as predictions carry it; preset and a hash of the weights, or a registry's id. memory: of a team's own
    parts; may be replaced at any time.
    """

    def __init__(
        self,
        model: CalicoModel,
        config: CalicoConfig,
        tokenizer: CalicoTokenizer,
        *,
        version: str = "unsaved",
        options: ServingOptions | None = None,
        memory: PartMemory | None = None,
        base_memory: BaseMemory | None = None,
    ) -> None:
        self.model = model.eval()
        self.config = config
        self.tokenizer = tokenizer
        self.version = version
        self.memory, self.base_memory = memory, base_memory
        self._drawn = "", True  # of the last clicked image, by its digest
        self._clicked: tuple[str, dict[Window, AffinityLook]] = "", {}  # likewise, what was looked at of it
        self.options = options = options or ServingOptions()
        self.steps = LanguageSteps(model, compiled=options.compiled)
        self._lock = threading.Lock()
        host_bytes = 0 if model.device.type == "cpu" else options.host_encoding_bytes
        self._encodings = EncodingCache(options.encoding_bytes, host_bytes)
        most = options.images_at_once_on(model.device.type)
        at_once = images_that_fit(config, model.device, model.dtype, most)
        self._encode = ImageEncoder(model, Preprocessor.from_config(config), self._encodings, at_once)
        longest = config.grounding_encoder.image_size
        self._write_masks = MaskWriter(model, tokenizer, longest, options.mask_bytes_on(model.device.type))

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path | None = None,
        device: str | None = None,
        *,
        base: str | Path | None = None,
        options: ServingOptions | None = None,
    ) -> Self:
        """path: a checkpoint's folder, or that of an adapter; None: the embedded default. device None: a GPU where
        there is one. base: the checkpoint that an adapter was made on; None: see
        `calico.checkpoints.adapter.find_base`.

        Raises `CheckpointError`, and `InputError` for options that this device cannot serve.
        """
        options = options or ServingOptions()
        folder = EMBEDDED if path is None else Path(path)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        check_device(device)
        check_bits(options.llm_bits, device)
        if options.dtype not in DTYPES:
            raise InputError(f"dtype {options.dtype!r}: expected float32 or bfloat16")
        places = device, DTYPES[options.dtype], None if options.llm_bits is None else "cpu"
        checkpoint = folder
        if is_adapter(folder):
            base = None if base is None else Path(base)
            model, config, tokenizer = load_adapted(folder, base, *places)
            checkpoint = find_base(folder, AdapterCard.from_file(folder / ADAPTER_CARD), base)
        else:
            model, config, tokenizer = load_checkpoint(folder, *places)
        if options.llm_bits is not None:
            quantise_llm(model, options.llm_bits, device)
        version, memory = checkpoint_version(folder), load_memory(folder)
        base_memory = load_memory(checkpoint) if checkpoint != folder else memory
        if isinstance(memory, BaseMemory):
            memory = None
        if not isinstance(base_memory, BaseMemory):
            base_memory = None
        elif checkpoint != folder and memory is None:
            base_memory = base_memory.trusting()  # nobody knows what this language model was taught
        return cls(model, config, tokenizer, version=version, options=options, memory=memory, base_memory=base_memory)

    def warm_up(self) -> None:
        """The first group pays for allocations and compiled code; here a blank one does. Nothing of it is kept."""
        blank = np.zeros((64, 64, 3), np.uint8)
        with self._lock, torch.inference_mode():
            features, places = self._encode([blank, ~blank], ["blank", "white"])
            self._encode.forget("blank", "white")
            group = ImageGroup((blank, ~blank))
            asked = [Asked(0, sub_task, places, group.sizes_hw) for sub_task in SubTask]
            answers = self._generate(asked, features, [()] * 3, [None] * 3, limit=4)
            states = torch.cat([answer.states[:1] for answer in answers])
            self.model.segment(features.grounding, states, torch.zeros(len(states), dtype=torch.long))

    def forget_encodings(self) -> None:
        """As a new segmenter has none."""
        self._encode.forget()

    def segment(self, group: ImageGroup, *, candidates: Sequence[str] | None = None) -> CoSegmentation:
        """All three sub-tasks, reconciled by the rule of `calico.inference.reconcile`; a part memory has its say in the
        end (`calico.part_memory.evidence`).

        candidates: a fixed vocabulary of object and part names, however long; decoding is constrained to it. A region's
        score is the probability of its name times the mask decoder's IoU estimate: an estimate of its true IoU, wrong
        names 0.
        """
        return self.segment_many([group], candidates=[candidates])[0]

    def segment_many(
        self, groups: Sequence[ImageGroup], *, candidates: Sequence[Sequence[str] | None] | None = None
    ) -> list[CoSegmentation]:
        """Of each group what `segment` gives, in order; images, questions and masks go through the model together.

        Groups of more than four images are asked about in windows (`calico.inference.windows`).

        candidates: for each group its own, or None. What did not fit into memory at once is a problem `out_of_memory`
        of the groups concerned; raises `OutOfMemory` where half of it does not fit either.
        """
        memory = self.memory  # it may be replaced meanwhile
        candidates = [None] * len(groups) if candidates is None else list(candidates)
        ranges_of = [windows(len(group)) for group in groups]
        parts = [part_of(group, images) for group, own in zip(groups, ranges_of, strict=True) for images in own]
        names = [own for own, ranges in zip(candidates, ranges_of, strict=True) for _ in ranges]
        in_windows = self._segment_windows(parts, names)
        results: list[CoSegmentation] = []
        for group, own, names_of_group in zip(groups, ranges_of, candidates, strict=True):
            merged = merge(group.sizes_hw, own, in_windows[: len(own)])
            results.append(self._with_memories(group, merged, names_of_group, memory))
            in_windows = in_windows[len(own) :]
        return results

    def reconciled(self, group: ImageGroup, answers: Mapping[SubTask, AnsweredMasks]) -> CoSegmentation:
        """One co-segmentation of the answers about a group, seen again in the light of the part memory."""
        return self._with_memories(group, reconcile(group.sizes_hw, answers), None, self.memory)

    def _with_memories(
        self,
        group: ImageGroup,
        found: CoSegmentation,
        candidates: Sequence[str] | None,
        memory: PartMemory | None,
    ) -> CoSegmentation:
        """The checkpoint's own first, which leaves the team's names to the team's."""
        wholes: list[torch.Tensor] | None = None
        if (base := self.base_memory) is not None:
            looks = list(self._looks(group, base))
            sights = base.sights(looks, group.sizes_hw, candidates)
            taught = () if memory is None else memory.card.object_names
            found = proposed(found, sights, [base.trust(look) for look in looks], taught)
            if memory is not None and base.card.size == memory.card.size * WHOLE_SCALE:
                wholes = [look.mean for look in looks]
        if memory is None:
            return found
        sights = [memory.sight(*one) for one in zip(self._looks(group, memory, wholes), group.sizes_hw, strict=True)]
        if candidates is not None:
            sights = [sight and sight.among(candidates) for sight in sights]
        return remembered(found, sights, memory.card.object_names)

    def _looks(
        self, group: ImageGroup, memory: PartMemory, wholes: Sequence[torch.Tensor] | None = None
    ) -> Iterator[PyramidFeatures]:
        """wholes: of the images, where another look has read them. What the encoders read at this size is not
        read again."""
        reader = reader_of(memory, self.model, self.config, has_whole=wholes is None)
        is_encoded = memory.card.size == self.config.grounding_encoder.image_size and memory.card.least_presence is None
        for number, (image, digest, size_hw) in enumerate(
            zip(group.images, group.digests, group.sizes_hw, strict=True)
        ):
            maps = self._encode.maps_of(digest) if is_encoded else None
            with self._lock:  # clicks and other predictions get their turn between the images
                look = reader(image) if maps is None else reader.of_maps(maps, size_hw)
            yield look if wholes is None else look._replace(whole=wholes[number])

    def _segment_windows(
        self, groups: Sequence[ImageGroup], candidates: Sequence[Sequence[str] | None]
    ) -> list[CoSegmentation]:
        results: list[CoSegmentation] = []
        for start in range(0, len(groups), self.options.groups_at_once):
            part = slice(start, start + self.options.groups_at_once)
            notices: list[str] = []
            answered = self.answer_many(groups[part], candidates=candidates[part], notices=notices)
            problems = tuple(Problem("out_of_memory", notice) for notice in notices)
            for group, answers in zip(groups[part], answered, strict=True):
                result = reconcile(group.sizes_hw, answers)
                results.append(replace(result, problems=(*result.problems, *problems)))
        return results

    def answer(
        self,
        group: ImageGroup,
        sub_tasks: Sequence[SubTask] = tuple(SubTask),
        *,
        candidates: Sequence[str] | None = None,
        constrained: bool | None = None,
    ) -> Mapping[SubTask, AnsweredMasks]:
        """Each question's own answer and masks. constrained: hold the grammar; None: where candidates are given."""
        return self.answer_many([group], sub_tasks, candidates=[candidates], constrained=constrained)[0]

    def answer_many(
        self,
        groups: Sequence[ImageGroup],
        sub_tasks: Sequence[SubTask] = tuple(SubTask),
        *,
        candidates: Sequence[Sequence[str] | None] | None = None,
        constrained: bool | None = None,
        notices: list[str] | None = None,
    ) -> list[Mapping[SubTask, AnsweredMasks]]:
        """Each question's own answer and masks, of all groups as one batch. candidates: for each group, or None.

        notices: is told of what did not fit into memory at once.
        """
        notices = [] if notices is None else notices
        names = [None if c is None else tuple(c) for c in candidates or [None] * len(groups)]
        images = [image for group in groups for image in group.images]
        digests = [digest for group in groups for digest in group.digests]
        results: list[dict[SubTask, AnsweredMasks]] = [{} for _ in groups]
        with self._lock, torch.inference_mode():
            features, places = self._encode(images, digests, notices)
            questions = []
            for number, group in enumerate(groups):
                own, places = places[: len(group)], places[len(group) :]
                questions += [Asked(number, sub_task, own, group.sizes_hw) for sub_task in sub_tasks]

            listed = [() if own is None else spelled_names(self.tokenizer, own).listed for own in names]

            def answers_of(some: Sequence[Asked]) -> list[Answer]:
                constraints = [
                    AnswerConstraint(self.tokenizer, one.sub_task, len(one.images), names[one.group]).allowed
                    if (names[one.group] is not None if constrained is None else constrained)
                    else None
                    for one in some
                ]
                return self._generate(some, features, [listed[one.group] for one in some], constraints)

            answers = in_halves(answers_of, questions, "questions", notices)
            masks_of = self._write_masks(questions, answers, features.grounding, notices)
        for one, masks in zip(questions, masks_of, strict=True):
            results[one.group][one.sub_task] = masks
        return list(results)

    def segment_prompts(
        self,
        image: np.ndarray,
        points_xy: Sequence[tuple[float, float]] = (),
        labels: Sequence[bool] = (),
        box_xyxy: tuple[float, float, float, float] | None = None,
    ) -> PromptedMask:
        """A mask from clicks or a box on one image (HxWx3 uint8), in its own pixels. labels: True in, False out.

        A click means the part under it; on what is no drawing, what belongs to it (`calico.inference.clicks`), whatever
        the mask decoder sees. A box means what it is tight around. Where both are given they are used together. A box
        is answered by a closer look around it (`calico.inference.closer`), at which the colours inside and around it
        have their say too (`calico.inference.colours`).
        """
        if len(points_xy) != len(labels) or (not len(points_xy) and box_xyxy is None):
            raise InputError(
                f"expected one label per point, or a box; got {len(points_xy)} points, {len(labels)} labels, "
                f"box {box_xyxy}"
            )
        size_hw = (image.shape[0], image.shape[1])
        clicks = list(zip(points_xy, labels, strict=True))
        least = self.config.grounding_encoder.image_size // 4
        if box_xyxy is not None:
            return self._look(image, for_box(box_xyxy, size_hw, least), clicks, box_xyxy)
        affinity = None if self.base_memory is None else self.base_memory.affinity  # fitted at the encoders' size
        if affinity is None or self._looks_drawn(image):
            return self._look(image, whole(size_hw), clicks)
        return self._belonging(image, clicks, affinity)

    def _belonging(self, image: np.ndarray, clicks: Clicks, affinity: AffinityHead) -> PromptedMask:
        """What belongs to the clicks; the looks are kept until another image is clicked or another place is first."""
        reader = PyramidReader(self.model, self.config, self.config.grounding_encoder.image_size)
        digest = image_digest(image)
        kept = self._clicked[1] if self._clicked[0] == digest else {}
        looks: dict[Window, AffinityLook] = {}

        def look(window: Window) -> AffinityLook:
            if (known := kept.get(window)) is None:
                cutout = window.of(image)
                known = affinity.look(cutout, reader(cutout))
            looks[window] = known
            return known

        mask, expected = mask_of_clicks((image.shape[0], image.shape[1]), clicks, affinity, look)
        self._clicked = digest, looks
        return PromptedMask(mask, expected)

    def _looks_drawn(self, image: np.ndarray) -> bool:
        """Whether an image is like what the mask decoder knows best, as the checkpoint's own memory tells; True where
        there is none."""
        base, digest = self.base_memory, image_digest(image)
        if base is None or base.likeness is None:
            return True
        kept, is_drawn = self._drawn
        if kept != digest:
            reader = reader_of(base, self.model, self.config)
            is_drawn = base.likeness_of(reader(image)) > 0.5
            self._drawn = digest, is_drawn
        return is_drawn

    def _look(
        self,
        image: np.ndarray,
        window: Window,
        clicks: Sequence[tuple[tuple[float, float], bool]],
        box_xyxy: Sequence[float] | None = None,
    ) -> PromptedMask:
        """The answer of one look, in the image's own pixels. Clicks beside the window are left out."""
        inside = [(point, label) for point, label in clicks if window.holds(point)]
        cutout, corner = window.of(image), np.array([window.left, window.top], np.float32)
        size_hw = (cutout.shape[0], cutout.shape[1])
        longest = self.config.grounding_encoder.image_size
        decoder, device = self.model.pixel_decoder, self.model.device
        with torch.inference_mode():
            features, _ = self._encode([cutout], [image_digest(cutout)])
            box = points = marks = None
            if box_xyxy is not None:
                corners = np.array(box_xyxy, np.float32).reshape(2, 2) - corner
                box = torch.from_numpy(fitted_points(corners, size_hw, longest)).reshape(1, 4).to(device)
            if inside:
                places = np.array([point for point, _ in inside], np.float32) - corner
                points = torch.from_numpy(fitted_points(places, size_hw, longest))[None].to(device)
                marks = torch.tensor([[int(label) for _, label in inside]], device=device)
            masks = None
            for seen in range(1 if decoder.mask_prompt and inside else len(inside), len(inside) + 1):
                if points is None or marks is None:
                    sparse = decoder.prompts(boxes_xyxy=box)
                else:
                    sparse = decoder.prompts(points[:, :seen], marks[:, :seen], box)
                masks = decoder(features.grounding, sparse, decoder.seen(masks))
            assert masks is not None
            logits = restored_logits(masks.logits[0], size_hw, longest)
            score = float(masks.iou[0].clamp(0, 1))
        mask = window.placed(logits > 0, image.shape[:2])
        if box_xyxy is not None:
            own_box = np.array(box_xyxy) - np.tile(corner, 2)
            tight = tight_mask(with_colours(logits, cutout, own_box), own_box)
            tight = window.placed(tight, image.shape[:2])
            mask = tight if agrees(tight, clicks) else mask
        return PromptedMask(mask, score)

    def segment_named(
        self, group: ImageGroup, name: str, objects: Mapping[int, str], *, shown: Sequence[int] = ()
    ) -> dict[int, PromptedMask]:
        """The part of that name on each image of the group that is not `shown`, with how sure the model is of it.

        objects: the object's name of each image. shown: images that are known to show the part. A score is the
        likelihood of the image's identifier behind the forced name times the mask decoder's IoU estimate;
        `calico.inference.proposals` says above which it is believed. Raises InputError for a name that cannot be asked.
        """
        with torch.inference_mode():
            features, places = self._encode(group.images, group.digests)
            rows: list[Forced] = []
            prompts: list[Prompt] = []
            for image in range(len(group)):
                if image in shown or image not in objects:
                    continue
                window = sorted({image, *list(shown)[:1]}) if shown else list(windows_of(image, len(group)))
                if len(window) < 2:
                    window = sorted({image, (image + 1) % len(group)})
                within = {i: n for n, i in enumerate(window)}
                examples = [within[i] for i in shown if i in within]
                named = {within[i]: objects[i] for i in window if i in objects}
                row = forced_answer(name, within[image], examples, named)
                rows.append(row._replace(image=image))
                prompt = self._prompt(row.sub_task, len(window), ())
                prompts.append(prompt._replace(images=[places[i] for i in window]))
            if not rows:
                return {}
            read = read_forced(self.model, self.tokenizer, features, prompts, rows)
            where = torch.tensor([places[row.image] for row in rows], device=read.states.device)
            masks = self.model.segment(features.grounding, read.states, where)
            sizes = [group.sizes_hw[row.image] for row in rows]
            masks_at_size = restored_masks(masks.logits, sizes, self.config.grounding_encoder.image_size)
        answers = {}
        for row, mask, iou, likelihood in zip(
            rows, masks_at_size, masks.iou.clamp(0, 1).tolist(), read.likelihood, strict=True
        ):
            answers[row.image] = PromptedMask(mask, iou * likelihood)
        return answers

    def _prompt(self, sub_task: SubTask, num_images: int, candidates: Sequence[str]) -> Prompt:
        question = canonical_question(sub_task, num_images, candidates)
        text = render_prompt(question.text, num_images, system=self.config.system_prompt)
        encoded = self.tokenizer.encode_prompt(text, self.config.num_queries)
        return Prompt(encoded.ids, encoded.image_positions, range(num_images))

    def _generate(
        self,
        asked: Sequence[Asked],
        features: ImageFeatures,
        candidates: Sequence[Sequence[str]],
        constraints: Sequence[AllowedTokens | None],
        limit: int | None = None,
    ) -> list[Answer]:
        """limit: of new tokens, by the number of images where None."""
        return generate(
            self.model,
            features,
            [
                self._prompt(one.sub_task, len(one.images), names)._replace(images=one.images)
                for one, names in zip(asked, candidates, strict=True)
            ],
            eos_id=self.tokenizer.eos_id,
            pad_id=self.tokenizer.pad_id,
            max_new_tokens=[512 + 256 * (len(one.images) - 2) if limit is None else limit for one in asked],
            constraints=constraints,
            steps=self.steps,
        )
