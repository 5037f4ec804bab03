// What is wrong with the page that is open, and the addresses that it links to; run by site.py.
const found = [];
const rgb = text => { const n = text.match(/[\d.]+/g).map(Number);
  return {r: n[0], g: n[1], b: n[2], a: n.length > 3 ? n[3] : 1}; };
const over = (top, under) => ({r: top.r * top.a + under.r * (1 - top.a),
  g: top.g * top.a + under.g * (1 - top.a), b: top.b * top.a + under.b * (1 - top.a), a: 1});
const light = c => { const f = v => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
  return .2126 * f(c.r) + .7152 * f(c.g) + .0722 * f(c.b); };
const behind = e => { const layers = [];
  for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.a) layers.push(c); if (c.a === 1) break; }
  return layers.reverse().reduce((under, top) => over(top, under), {r: 255, g: 255, b: 255, a: 1}); };
for (const image of document.images) if (!image.hasAttribute('alt')) found.push('no alt: ' + image.src);
if (!document.documentElement.lang) found.push('no lang');
if (document.querySelectorAll('h1').length !== 1) found.push(document.querySelectorAll('h1').length + ' h1');
if (!document.title) found.push('no title');
if (document.documentElement.scrollWidth > innerWidth + 1)
  found.push('wider than the screen: ' + document.documentElement.scrollWidth);
const main = document.querySelector('article') || document.body;
const seen = new Set();
const walker = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  if (!node.data.trim()) continue;
  const e = node.parentElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
  if (!box.width || !box.height || style.visibility !== 'visible' || +style.opacity === 0) continue;
  if (e.closest('.headerlink, svg, .md-clipboard')) continue;
  const under = behind(e), ink = over(rgb(style.color), under);
  const [a, b] = [light(ink), light(under)].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05), size = parseFloat(style.fontSize);
  const large = size >= 24 || size >= 18.66 && +style.fontWeight >= 700;
  if (ratio >= (large ? 3 : 4.5)) continue;
  const key = style.color + ' ' + e.className;
  if (!seen.has(key)) found.push(`contrast ${ratio.toFixed(2)}: ${node.data.trim().slice(0, 40)} (${e.tagName} ${key})`);
  seen.add(key);
}
const inside = [...document.querySelectorAll('a[href]')].map(a => a.href)
  .filter(href => href.startsWith(location.origin));
return [found, inside];
