"""Data of tasks: texts, files, GLUE, questions about a text."""

from hf_sparse.renamed import renamed_module

renamed_module(
    "hf_sparse.data.answers",
    {name: f"hf_sparse.data.qa_answers.{name}" for name in ("Answer", "AnswerFinder", "Candidate")},
)
