// A hair line with the time under the pointer. The report is complete without it.
document.querySelectorAll("svg.chart").forEach(function (svg) {
  var line = svg.querySelector(".hair"), text = svg.querySelector(".hairtext");
  if (!line) return;
  var left = +svg.dataset.left, right = +svg.dataset.right, secs = +svg.dataset.seconds;
  svg.addEventListener("mousemove", function (e) {
    var p = new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse());
    var on = p.x >= left && p.x <= right;
    line.style.visibility = text.style.visibility = on ? "visible" : "hidden";
    if (!on) return;
    line.setAttribute("x1", p.x); line.setAttribute("x2", p.x);
    text.textContent = "+" + ((p.x - left) / (right - left) * secs).toFixed(3) + " s";
    var flip = p.x > right - 80;
    text.setAttribute("x", p.x + (flip ? -5 : 5));
    text.setAttribute("text-anchor", flip ? "end" : "start");
  });
  svg.addEventListener("mouseleave", function () { line.style.visibility = text.style.visibility = "hidden"; });
});
