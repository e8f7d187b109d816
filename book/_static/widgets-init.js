/* Loaded before embed.js, on pages with widgets. */
(function () {
  "use strict";
  // The theme's Font Awesome would replace the widgets' icons, and with them their elements.
  window.FontAwesomeConfig = { autoReplaceSvg: "nest" };
  // Fonts of the widgets come from the book.
  window.__jupyter_widgets_assets_path__ = new URL("lib/", document.currentScript.src).href;
  // The widgets, which start when the page has loaded, ask for mathematics in the way of MathJax 2.
  window.addEventListener("load", function () {
    var math = window.MathJax;
    if (math && !math.Hub) {
      math.Hub = {
        Queue: function (call) {
          math.typesetPromise([call[2]]);
        },
      };
    }
  });
})();
