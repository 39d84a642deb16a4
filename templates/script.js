(function () {
  var root = document.documentElement;
  function kept() { try { return localStorage.getItem("theme") } catch (e) { return null } }
  function keep(theme) { try { localStorage.setItem("theme", theme) } catch (e) {} }
  function isDark() { return getComputedStyle(root).colorScheme.trim() === "dark" ||
    (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches) }
  var chosen = kept();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  root.classList.add("scripted");
  function press() {
    var button = document.querySelector("[data-act=theme]");
    if (button) button.setAttribute("aria-pressed", String(isDark()));
  }
  function open() {
    // A link to a check unfolds it, and what it lies in.
    var at = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (var box = at; box; box = box.parentElement) if (box.tagName === "DETAILS") box.open = true;
  }
  document.addEventListener("DOMContentLoaded", function () { press(); open() });
  addEventListener("hashchange", open);
  document.addEventListener("click", function (event) {
    var button = event.target.closest("[data-act]");
    if (!button) return;
    if (button.dataset.act === "theme") {
      var theme = isDark() ? "light" : "dark";
      root.dataset.theme = theme; keep(theme); press();
    } else if (button.dataset.act === "copy") {
      var words = button.textContent, code = button.parentElement.querySelector("code");
      var copied = navigator.clipboard ? navigator.clipboard.writeText(code.textContent) : Promise.reject();
      copied.then(function () { button.textContent = "Copied" }, function () {
        var range = document.createRange(); range.selectNodeContents(code);
        var selection = getSelection(); selection.removeAllRanges(); selection.addRange(range);
        button.textContent = "Selected";
      });
      setTimeout(function () { button.textContent = words }, 1600);
    }
  });
  document.addEventListener("keydown", function (event) {
    var day = event.target.closest && event.target.closest("[data-grid] a");
    var ways = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    var way = ways[event.key];
    if (!day || !way || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    var all = [].slice.call(day.closest("[data-grid]").querySelectorAll("a")), goal;
    if (way[0]) goal = all[all.indexOf(day) + way[0]];
    else {
      // The nearest day of the next row that is shown, above or below.
      var from = day.getBoundingClientRect(), best = Infinity;
      all.forEach(function (other) {
        var box = other.getBoundingClientRect(), down = (box.top - from.top) * way[1];
        var far = down * 10000 + Math.abs(box.left - from.left);
        if (down > 4 && far < best) { best = far; goal = other }
      });
    }
    if (goal) { event.preventDefault(); goal.focus() }
  });
})();
