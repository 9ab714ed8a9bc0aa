"""The ScriptedLoadableModule classes, translation, and unit tests inside the application."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import slicer

SAMPLE = Path(__file__).parent / "sample_module" / "HostSample.py"


@pytest.fixture
def base(host):
    """The module with the four classes."""
    import slicer.ScriptedLoadableModule

    return slicer.ScriptedLoadableModule


class TestModule:
    def test_exactly_four_names_are_exported(self, base) -> None:
        assert sorted(base.__all__) == [
            "ScriptedLoadableModule",
            "ScriptedLoadableModuleLogic",
            "ScriptedLoadableModuleTest",
            "ScriptedLoadableModuleWidget",
        ]

    def test_it_is_registered_in_lower_case(self, host) -> None:
        module = host.load_module(SAMPLE)
        assert slicer.modules.hostsample is module
        assert slicer.util.modulePath("HostSample") == str(SAMPLE)
        assert slicer.util.getModule("HostSample") is module
        assert slicer.util.getModuleWidget("HostSample") is slicer.modules.HostSampleWidget
        assert slicer.util.getModuleLogic("HostSample") is slicer.modules.HostSampleWidget.logic

    def test_metadata(self, host) -> None:
        module = host.load_module(SAMPLE)
        assert (module.title, module.categories, module.dependencies) == ("Host sample", ["Testing"], [])
        assert module.instance.resourcePath("UI/HostSample.ui") == str(SAMPLE.parent / "Resources/UI/HostSample.ui")

    def test_a_module_without_a_test_class_says_so(self, host, base, monkeypatch) -> None:
        module = host.load_module(SAMPLE)
        monkeypatch.delattr(sys.modules["HostSample"], "HostSampleTest")
        with pytest.raises(AssertionError, match="HostSampleTest"):
            module.instance.runTest()

    def test_unloading_leaves_the_search_path_as_it_was(self, host, monkeypatch) -> None:
        before = list(sys.path)
        host.unload(host.load_module(SAMPLE))
        assert sys.path == before
        monkeypatch.syspath_prepend(str(SAMPLE.parent))  # a folder that was there before stays
        host.unload(host.load_module(SAMPLE))
        assert str(SAMPLE.parent) in sys.path

    def test_an_import_error_propagates(self, host, tmp_path) -> None:
        (tmp_path / "Broken.py").write_text("import nothing_of_this_name", encoding="utf-8")
        with pytest.raises(ModuleNotFoundError):
            host.load_module(tmp_path / "Broken.py")
        assert "Broken" not in sys.modules

    def test_unloading_forgets_the_library_unless_it_was_imported_before(self, host, tmp_path) -> None:
        (tmp_path / "ThingLib").mkdir()
        (tmp_path / "ThingLib" / "__init__.py").write_text("", encoding="utf-8")
        text = "import ThingLib\nclass Thing:\n    def __init__(self, parent): pass\n"
        (tmp_path / "Thing.py").write_text(text, encoding="utf-8")
        module = host.load_module(tmp_path / "Thing.py")
        library = sys.modules["ThingLib"]
        host.unload(module)
        assert "ThingLib" not in sys.modules
        sys.modules["ThingLib"] = library
        host.unload(host.load_module(tmp_path / "Thing.py"))
        assert sys.modules.pop("ThingLib") is library


class TestWidget:
    def test_setup_is_called_once_and_enter_after_it(self, host) -> None:
        widget = host.open(host.load_module(SAMPLE))
        assert host.open("HostSample") is widget
        assert (widget.parent.isEntered(), widget.moduleName, widget.developerMode) == (True, "HostSample", False)
        host.leave()
        assert widget.parent.isEntered() is False

    def test_developers_get_the_reload_section(self, host) -> None:
        slicer.app.userSettings().setValue("Developer/DeveloperMode", True)
        widget = host.open(host.load_module(SAMPLE))
        assert [b.text for b in widget.parent.findChildren("ctkCollapsibleButton")][0] == "Reload && Test"
        widget.reloadButton.click()
        host.process_events()
        assert slicer.modules.HostSampleWidget is not widget
        assert widget.Observations == []

    def test_without_a_parent_it_makes_its_own(self, host, base) -> None:
        calls = []

        class LonelyWidget(base.ScriptedLoadableModuleWidget):
            def setup(self) -> None:
                calls.append(self.parent.mrmlScene())

        LonelyWidget()
        assert calls == [slicer.mrmlScene]


class TestLogic:
    def test_one_singleton_parameter_node(self, base) -> None:
        logic = type("ThingLogic", (base.ScriptedLoadableModuleLogic,), {})()
        node = logic.getParameterNode()
        assert node is logic.getParameterNode()
        assert (node.GetSingletonTag(), node.GetAttribute("ModuleName")) == ("Thing", "Thing")
        node.SetAttribute("ModuleName", "lost")
        assert logic.getParameterNode().GetAttribute("ModuleName") == "Thing"

    def test_several_parameter_nodes(self, base) -> None:
        logic = type("ThingLogic", (base.ScriptedLoadableModuleLogic,), {})()
        logic.isSingletonParameterNode = False
        first = logic.getParameterNode()
        second = slicer.mrmlScene.AddNode(logic.createParameterNode())
        assert first.GetSingletonTag() is None
        assert logic.getAllParameterNodes() == [first, second]
        assert logic.getParameterNode() is first

    def test_a_closed_scene_resets_the_singleton(self, host, base) -> None:
        logic = type("ThingLogic", (base.ScriptedLoadableModuleLogic,), {})()
        node = logic.getParameterNode()
        node.SetParameter("a", "1")
        host.close_scene()
        assert logic.getParameterNode().GetParameter("a") == ""


class TestTest:
    def run(self, base, **methods):
        """Run a test class made of `methods`; return what was called."""
        calls: list[str] = []
        members = {name: (lambda self, name=name: calls.append(name)) for name in methods}
        cls = type("ThingTest", (base.ScriptedLoadableModuleTest,), members)
        cls().runTest()
        return calls

    def test_every_method_with_test_in_its_name_runs(self, base) -> None:
        calls = self.run(base, setUp=1, tearDown=1, test_b=1, my_test_a=1, helper=1)
        assert calls == ["setUp", "my_test_a", "tearDown", "setUp", "test_b", "tearDown"]

    def test_a_failure_propagates(self, base) -> None:
        def test_wrong(self) -> None:
            self.fail("on purpose")

        with pytest.raises(AssertionError, match="on purpose"):
            type("ThingTest", (base.ScriptedLoadableModuleTest,), {"test_wrong": test_wrong})().runTest()

    def test_no_tests_give_a_warning(self, base, caplog) -> None:
        self.run(base)
        assert "No tests found" in caplog.text

    def test_delay_display_logs_and_returns(self, base, caplog) -> None:
        caplog.set_level(logging.INFO)
        base.ScriptedLoadableModuleTest().delayDisplay("hello")
        assert "hello" in caplog.text


class TestTranslation:
    def test_the_text_stays_without_a_translation(self, host) -> None:
        from slicer.i18n import tr, translate

        assert tr("Apply {x}") == translate("any", "Apply {x}") == "Apply {x}"

    def test_a_translation_with_other_placeholders_is_refused(self, host, caplog) -> None:
        from slicer.i18n import tr

        slicer.app.translations.update({"Good {x}": "Bien {x}", "Bad {x}": "Mal {y}"})
        assert (tr("Good {x}"), tr("Bad {x}")) == ("Bien {x}", "Bad {x}")
        assert "placeholders" in caplog.text


class TestRunUnitTest:
    def test_it_raises_on_failure(self, host, tmp_path) -> None:
        from slicer.testing import runUnitTest

        text = "import unittest\nclass T(unittest.TestCase):\n    def test_it(self):\n        self.assertEqual(1, {})\n"
        (tmp_path / "host_unit_good.py").write_text(text.format(1), encoding="utf-8")
        (tmp_path / "host_unit_bad.py").write_text(text.format(2), encoding="utf-8")
        runUnitTest([str(tmp_path)], "host_unit_good")
        with pytest.raises(RuntimeError, match="Test failed"):
            runUnitTest(str(tmp_path), "host_unit_bad")
        sys.path.remove(str(tmp_path))
