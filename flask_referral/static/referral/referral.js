// What a browser can do more: copying, its own share sheet, and the chart's period without a
// reload. Everything works without it; what needs it is hidden until it runs.
(() => {
  "use strict";

  const say = (near, text) => {
    const place = near.closest(".referral-card")?.querySelector("[role=status]");
    if (!place) return;
    place.textContent = "";
    // A text that is the same is not spoken again.
    setTimeout(() => { place.textContent = text; }, 50);
  };

  const copy = async (button) => {
    const field = document.getElementById(button.dataset.referralCopy);
    if (!field) return;
    try {
      await navigator.clipboard.writeText(field.value);
    } catch {
      // Without HTTPS, or without the right, the old way is left.
      field.select();
      if (!document.execCommand("copy")) return;
      button.focus();
    }
    say(button, button.dataset.referralSaid);
  };

  const share = (button) => {
    const { referralShare: url, referralText: text } = button.dataset;
    // Closing the sheet is no error.
    navigator.share({ url, text }).catch(() => {});
  };

  const change = async (link) => {
    const section = link.closest("section");
    const index = [...link.parentNode.children].indexOf(link);
    try {
      const answer = await fetch(link.href, { headers: { Accept: "text/html" } });
      if (!answer.ok || answer.redirected) throw new Error(answer.status);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const found = page.getElementById("referral-chart").closest("section");
      section.replaceWith(found);
      prepare(found);
      found.querySelectorAll("nav a")[index].focus();
      history.replaceState(null, "", link.href);
    } catch {
      location.assign(link.href);
    }
  };

  const prepare = (root) => {
    for (const button of root.querySelectorAll("[data-referral-copy]")) button.hidden = false;
    for (const button of root.querySelectorAll("[data-referral-share]")) {
      if (navigator.share) button.parentNode.hidden = false;
    }
  };

  document.addEventListener("click", (event) => {
    const target = event.target.closest?.(
      "[data-referral-copy],[data-referral-share],[data-referral-periods] a",
    );
    if (!target) return;
    if (target.dataset.referralCopy) copy(target);
    else if (target.dataset.referralShare) share(target);
    else if (!event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
      event.preventDefault();
      change(target);
    }
  });
  prepare(document);
})();
