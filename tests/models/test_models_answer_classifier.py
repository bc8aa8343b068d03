"""The answer classifier: logits of a question's own pictures, in their order."""

import torch

from vlpretrain.models.answer_classifier import AnswerClassifier


def test_a_question_s_logits_do_not_depend_on_the_others():
    classifier = AnswerClassifier(8, 2, 5, dropout=0.1).eval()
    state_QPD = torch.randn(3, 2, 8)
    logits_QA = classifier(state_QPD)
    assert logits_QA.shape == (3, 5)
    torch.testing.assert_close(classifier(state_QPD[1:2]), logits_QA[1:2])


def test_the_order_of_two_pictures_matters():
    classifier = AnswerClassifier(8, 2, 5, dropout=0.0)
    state_QPD = torch.randn(3, 2, 8)
    assert not torch.allclose(classifier(state_QPD), classifier(state_QPD.flip(1)))


def test_every_parameter_takes_part():
    classifier = AnswerClassifier(8, 1, 5, dropout=0.0)
    classifier(torch.randn(3, 1, 8)).sin().sum().backward()
    assert [name for name, p in classifier.named_parameters() if p.grad is None] == []
