"use strict";
// The rows of a long table: only those in sight and some around them are drawn; the rest is empty space.

const ALL = 200; // tables of up to so many rows are drawn as a whole
const MARGIN = 20; // rows beyond those in sight on either side, for the keyboard and for a scroll of a few lines
const ROW_PX = 34; // before one is drawn and can be measured

class Rows {
  // table: the element, alone in an element that scrolls; drawRow(n) returns the <tr> of item n, with data-row n.
  constructor(table, drawRow) {
    this.table = table;
    this.drawRow = drawRow;
    this.numbers = [];
    table.parentNode.addEventListener("scroll", () => this.follow());
  }

  // Show these items, in this order.
  show(numbers) {
    this.numbers = numbers;
    this.table.setAttribute("aria-rowcount", numbers.length + 1);
    this.draw();
  }

  // The element of item n; null while it is not drawn.
  of(n) {
    return this.table.querySelector(`tr[data-row="${n}"]`);
  }

  rowPx() {
    return this.table.querySelector("tr[data-row]")?.getBoundingClientRect().height || ROW_PX;
  }

  // The places [begin, end) in sight.
  inSight() {
    const frame = this.table.parentNode, px = this.rowPx(), count = Math.ceil(frame.clientHeight / px) + 1;
    const above = Math.floor((frame.scrollTop - this.table.tBodies[0].offsetTop) / px);
    const begin = Math.max(0, Math.min(above, this.numbers.length - count));
    return [begin, Math.min(begin + count, this.numbers.length)];
  }

  // Redraw if rows in sight are missing.
  follow() {
    const [begin, end] = this.inSight();
    if (begin < this.begin || end > this.end) this.draw();
  }

  draw() {
    const body = this.table.tBodies[0], focused = body.contains(document.activeElement) && document.activeElement;
    const whole = this.numbers.length <= ALL, [begin, end] = whole ? [0, this.numbers.length] : this.inSight();
    [this.begin, this.end] = [Math.max(0, begin - MARGIN), Math.min(this.numbers.length, end + MARGIN)];
    const px = this.rowPx(), lines = this.numbers.slice(this.begin, this.end).map((n, place) => {
      const line = this.drawRow(n);
      line.setAttribute("aria-rowindex", this.begin + place + 2); // after the head
      return line;
    });
    body.replaceChildren(...space(this.begin * px), ...lines, ...space((this.numbers.length - this.end) * px));
    if (focused) this.of(focused.closest("tr").dataset.row)?.querySelector(focused.tagName)?.focus({ preventScroll: true });
  }
}

// A row in place of those that are not drawn, if there are any.
function space(px) {
  if (!px) return [];
  const line = make("tr", { class: "space", "aria-hidden": "true" }, make("td"));
  line.style.height = px + "px";
  return [line];
}
