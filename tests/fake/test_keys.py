from __future__ import annotations

import pytest

from proxy.fake import keys


def test_the_check_digit_is_that_of_a_published_key() -> None:
    assert keys.check_digit("5206043300991100250655012000000780026730161") == "5"


@pytest.mark.parametrize(("remainder", "last", "digit"), [(0, "0", "0"), (1, "6", "0"), (2, "1", "9"), (10, "5", "1")])
def test_the_check_digit_of_each_kind_of_remainder(remainder: int, last: str, digit: str) -> None:
    assert int(last) * 2 % 11 == remainder
    assert keys.check_digit("0" * 42 + last) == digit


def test_an_access_key_spells_out_what_is_known() -> None:
    chave = keys.make_access_key(keys.Natural("12345678000195", "65", "7", "1234"))
    assert len(chave) == 44
    assert chave[43] == keys.check_digit(chave[:43])
    assert keys.from_access_key(chave)[:4] == ("12345678000195", "65", "7", "1234")


def test_a_caller_who_gives_the_code_and_the_date_knows_the_key_beforehand() -> None:
    document = {
        "cnpj": "1",
        "serie": 7,
        "numero": 9,
        "codigoAleatorioNF": "00123456",
        "dataEmissao": "2026-03-31T23:59",
    }
    natural = keys.find_natural(document)
    assert natural is not None
    key = keys.make_access_key(natural)
    assert key[:43] == "3526030000000000000155007000000009100123456"


@pytest.mark.parametrize("document", [{"cNF": "1"}, {"dhEmi": "2026-03-31"}, {"dhEmi": "today", "cNF": 5}])
def test_a_code_and_a_date_alone_name_no_document(document: object) -> None:
    assert keys.find_natural(document) is None


def test_a_date_that_is_none_is_not_known() -> None:
    natural = keys.find_natural({"cnpj": "1", "dhEmi": "31/03/2026"})
    assert natural is not None
    assert natural.month == ""


def test_what_is_not_known_or_not_a_number_is_left_to_chance() -> None:
    one, other = (keys.make_access_key(keys.Natural("12ABC34501DE35")) for _ in range(2))
    assert one != other
    assert one.isdecimal()
    assert one[20:22] == "55"


@pytest.mark.parametrize(
    ("document", "name"),
    [
        ({"CNPJ": "12.345.678/0001-95", "modelo": 55, "serie": "001", "numero": "000"}, "12345678000195/55/1/0"),
        ({"ide": {"mod": "65", "nNF": 9}, "emitente": {"cnpj": "1", "numero": 300}}, "1/65/-/9"),
        ({"destinatario": {"cnpj": "2"}, "emit": {"CNPJ": "1"}, "numero_nf": 4}, "1/-/-/4"),
        ({"empresa": {"cnpj": "2"}, "emit": {"cnpj": "1"}}, "1/-/-/-"),
        ({"serie": True, "numero": 5, "modelo": None}, "-/-/-/5"),
    ],
)
def test_the_natural_key_is_found_in_two_levels(document: object, name: str) -> None:
    natural = keys.find_natural(document)
    assert natural is not None
    assert natural.name == name


@pytest.mark.parametrize("document", [None, [], "x", {}, {"a": {"b": {"cnpj": "1"}}}, {"dest": {"cnpj": "1"}}])
def test_a_body_may_name_no_document(document: object) -> None:
    assert keys.find_natural(document) is None


def test_a_signed_xml_names_itself() -> None:
    chave = keys.make_access_key(keys.Natural("12345678000195", "65", "7", "1234"))
    natural = keys.find_in_xml({"ambiente": 1, "xml": f"<NFe><infNFe versao='4.00' Id='NFe{chave}'/></NFe>"})
    assert natural is not None
    assert natural.name == chave
    assert natural.number == "1234"


@pytest.mark.parametrize("document", [None, {"xml": 1}, {"xml": "<NFe/>"}])
def test_an_xml_without_its_key(document: object) -> None:
    assert keys.find_in_xml(document) is None


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        (keys.Natural(number="9"), True),
        (keys.Natural("1", "", "2", "9"), True),
        (keys.Natural(series="3", number="9"), False),
        (keys.Natural(), False),
    ],
)
def test_a_document_answers_to_the_parts_asked_for(asked: keys.Natural, meant: bool) -> None:
    assert keys.Natural("1", "65", "2", "9").answers(asked) is meant
