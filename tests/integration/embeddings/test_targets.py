"""Rows with vectors in every kind of target: what is asked for, what is stored, what stays as it is."""

from __future__ import annotations

import pytest

import retl
from retl.model.embeddings import EmbeddingCounts
from tests.fake_embeddings import Fault
from tests.fake_embeddings.server import vector
from tests.integration.embeddings.conftest import Articles, numbers


def expected(text: str, dimensions: int = 8) -> list[float] | None:
    return numbers(vector(text, dimensions))


@pytest.mark.every_system
async def test_each_text_gets_its_vector_and_is_asked_for_once(articles: Articles) -> None:
    articles.write((1, "bread and butter"), (2, "trains to Prague"), (3, None), (4, "bread and butter"), (5, " \n"))

    report = await articles.scan()

    assert articles.vectors() == {
        1: expected("bread and butter"),
        2: expected("trains to Prague"),
        3: None,
        4: expected("bread and butter"),
        5: None,
    }
    assert articles.service.asked == {"bread and butter": 1, "trains to Prague": 1}
    assert report.embeddings == EmbeddingCounts(texts=3, reused=1, asked=2, tokens=6, requests=1)


@pytest.mark.every_system
async def test_unchanged_rows_are_neither_asked_for_nor_written_again(articles: Articles) -> None:
    articles.write(*((number, f"article number {number}") for number in range(30)))
    await articles.scan()
    before = articles.vectors()
    articles.service.forget()
    articles.write((7, "article number seven"), (30, "article number 12"))

    report = await articles.scan()

    assert articles.service.asked == {"article number seven": 1}
    assert articles.vectors() == {**before, 7: expected("article number seven"), 30: expected("article number 12")}
    assert report.embeddings == EmbeddingCounts(texts=31, reused=30, asked=1, tokens=3, requests=1)
    if report.changed is not None:
        assert (report.changed, report.unchanged) == (2, 29)


@pytest.mark.every_system
async def test_rows_that_a_target_has_lost_are_made_right_without_asking_for_what_it_has(articles: Articles) -> None:
    """As after a restore of the target: some rows are older, some are missing."""
    articles.write((1, "bread"), (2, "butter"), (3, "trains"))
    await articles.scan()
    articles.target.delete("articles", 2)
    articles.write((3, "trains to Prague"))
    articles.service.forget()

    await articles.scan()

    assert articles.rows() == [(1, "bread"), (2, "butter"), (3, "trains to Prague")]
    assert articles.vectors()[2] == expected("butter")
    assert articles.service.asked == {"butter": 1, "trains to Prague": 1}


@pytest.mark.every_system
@pytest.mark.parametrize("pre_action", ["swap", "mirror"])
async def test_a_refresh_reuses_the_vectors_of_the_table_that_it_replaces(articles: Articles, pre_action: str) -> None:
    if not articles.target.connector().target().mirrors and pre_action == "mirror":
        pytest.skip("this target cannot mirror")
    articles.words = {"pre_action": pre_action}
    articles.write(*((number, f"article number {number}") for number in range(10)))
    await articles.scan()
    articles.service.forget()
    articles.run("DELETE FROM articles WHERE id = 3")
    articles.write((4, "article of another kind"))

    await articles.scan()

    assert articles.service.asked == {"article of another kind": 1}
    assert sorted(articles.vectors()) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


@pytest.mark.every_system
async def test_another_model_is_refused_with_the_ways_out(articles: Articles) -> None:
    articles.write((1, "bread"))
    await articles.scan()
    articles.embeddings |= {"model": "large", "dimensions": 12}

    report = await articles.failed()

    assert report.error_type == "SchemaDrift"
    assert "holds vectors of 'small' with 8 dimensions, and embeddings asks for 'large' with 12 dimensions" in str(
        report.error
    )
    assert 'on_change = "replace"' in str(report.error)
    assert articles.vectors() == {1: expected("bread")}
    assert articles.service.requests == 1


@pytest.mark.every_system
async def test_another_model_replaces_every_vector_where_that_is_asked_for(articles: Articles) -> None:
    articles.write((1, "bread"), (2, "butter"))
    await articles.scan()
    articles.embeddings |= {"model": "large", "dimensions": 12, "on_change": "replace"}
    if articles.target.connector().type_name == "elasticsearch":
        articles.embeddings["into"] = "other"  # a field of an index cannot be dropped

    await articles.scan()
    again = await articles.scan()

    assert articles.vectors() == {1: expected("bread", 12), 2: expected("butter", 12)}
    assert articles.service.asked == {"bread": 2, "butter": 2}
    assert again.embeddings is not None and again.embeddings.asked == 0


async def test_a_refused_text_becomes_a_reject_of_its_row_with_the_services_reason(articles: Articles) -> None:
    articles.words = {"max_rejects": 1}
    articles.service.refuses = lambda text: "poison" in text
    articles.write(*((number, f"article number {number}") for number in range(20)), (20, "poison for rats"))

    report = await articles.scan()

    assert (report.rows, report.rejects) == (21, 1)
    assert [number for number, _ in articles.rows()] == list(range(20))
    async with articles.pipeline() as pipeline:
        (reject,) = await pipeline.rejects()
    assert (reject.key, reject.column) == ('{"id":20}', "body")
    assert reject.reason == "the model refuses the text: Your input was rejected by our safety system."


async def test_more_refused_texts_than_allowed_fail_the_scan_and_are_kept(embedded: Articles) -> None:
    embedded.words = {"max_rejects": 1}
    embedded.service.refuses = lambda text: "poison" in text
    embedded.write((1, "poison one"), (2, "poison two"), (3, "bread"))

    report = await embedded.failed()

    assert "the model refused the text of 2 rows" in str(report.error)
    async with embedded.pipeline() as pipeline:
        assert await pipeline.count_rejects() == 2


async def test_a_scan_that_its_budget_stops_goes_on_from_where_it_was(embedded: Articles) -> None:
    embedded.words = {"slice_rows": 10, "cursor": "id"}
    embedded.embeddings |= {"budget": retl.Budget(texts=25), "batch": 5}
    embedded.write(*((number, f"article number {number}") for number in range(40)))

    stopped = await embedded.failed()
    assert stopped.error_type == "GuardStopped"
    assert stopped.embeddings is not None and stopped.embeddings.asked == 20
    assert len(embedded.rows()) == 20
    report = await embedded.scan()

    assert report.embeddings is not None and report.embeddings.asked == 20
    assert len(embedded.rows()) == 40
    assert embedded.service.twice == []


async def test_a_service_that_dies_in_the_middle_leaves_what_was_committed(embedded: Articles) -> None:
    embedded.words = {"slice_rows": 10, "cursor": "id"}
    embedded.write(*((number, f"article number {number}") for number in range(40)))
    embedded.service.faults = [Fault(cut=True, chosen=lambda text: text.endswith("25"))]
    embedded.embeddings |= {"patience": "1s"}

    report = await embedded.failed()
    assert report.error_type == "ConnectionFailed"
    assert len(embedded.rows()) == 20
    embedded.service.faults = []
    await embedded.scan()

    assert len(embedded.rows()) == 40
    assert embedded.service.twice == []


async def test_embeddings_that_are_switched_on_later_reach_the_rows_that_are_there(embedded: Articles) -> None:
    embedded.words = {"cursor": "id"}
    embedded.write((1, "bread"), (2, "butter"))
    plain = retl.Table("articles", to=embedded.to, cursor="id")
    pipeline = embedded.pipeline()
    await retl.Pipeline(
        "articles", source=pipeline._source, target=embedded.target.connector(), tables=[plain]
    ).run_once()

    report = await embedded.scan()

    assert embedded.vectors() == {1: expected("bread"), 2: expected("butter")}
    assert any("have no vectors" in warning for warning in report.warnings)


async def test_a_plan_says_what_would_be_asked_of_whom_and_asks_nothing(embedded: Articles) -> None:
    embedded.write((1, "bread"))

    (plan,) = await embedded.pipeline().plan()

    assert (
        f"embed body into embedding by 'small' with 8 dimensions of {embedded.service.url}: each text that the table has no vector of"
        in plan.target.statements
    )
    assert embedded.service.requests == 0


async def test_a_refresh_that_empties_the_table_warns_that_it_asks_for_everything(embedded: Articles) -> None:
    embedded.words = {"pre_action": "truncate"}
    embedded.write((1, "bread"))

    report = await embedded.scan()

    assert any("every scan asks the model for every text" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("embeddings", "problem"),
    [
        ({"of": "nothing"}, "names the column 'nothing', which the table does not have"),
        ({"of": "id"}, "the column 'id' is no text"),
        ({"into": "id"}, "has a column 'id' of its own"),
    ],
)
async def test_columns_that_do_not_fit_are_refused_before_anything_is_asked(
    embedded: Articles, embeddings: dict[str, str], problem: str
) -> None:
    embedded.embeddings |= embeddings
    embedded.write((1, "bread"))

    report = await embedded.failed()

    assert problem in str(report.error)
    assert embedded.service.requests == 0


async def test_a_local_model_that_is_not_there_is_refused_by_a_plan(embedded: Articles) -> None:
    embedded.embeddings |= {"url": "local:wordllama", "model": "", "dimensions": 512}
    embedded.write((1, "bread"))

    with pytest.raises(retl.ConfigError, match="no vectors of 512 dimensions"):
        await embedded.pipeline().plan()
    assert [finding.level for finding in await embedded.pipeline().check()] == ["ok", "ok", "error"]
    embedded.embeddings |= {"dimensions": 64}
    await embedded.scan()
    assert embedded.rows("embedding_of")[0][0].startswith("wordllama 64 ")


async def test_the_key_of_the_service_is_never_shown(embedded: Articles) -> None:
    embedded.embeddings |= {"api_key": "sk-secret-of-somebody"}
    embedded.write((1, "bread"))
    embedded.service.faults = []

    report = await embedded.failed()

    assert "sk-secret-of-somebody" not in str(report)
    assert "sk-secret-of-somebody" not in repr(embedded.words_of())
    assert "401" in str(report.error)
