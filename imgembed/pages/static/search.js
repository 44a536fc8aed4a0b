"use strict";
// The page works without this script; with it one can drop and paste images.
const form = document.getElementById("upload");
const file = form.elements.image;
const notice = document.getElementById("error");
const filter = document.getElementById("where");
document.documentElement.classList.add("with-script");

function refuse(text) {
  notice.textContent = text;
  notice.classList.add("bad");
  notice.hidden = false;
}

function searchFor(files) {
  const image = [...files].find((each) => each.type.startsWith("image/")) || files[0];
  if (!image) {
    refuse("There is no image file in what was dropped. Save the image first, then choose it.");
  } else if (image.size > Number(form.dataset.maxUpload) - 4096) {
    refuse(`The image is larger than ${form.dataset.maxUploadText}. Make it smaller.`);
  } else {
    const chosen = new DataTransfer();
    chosen.items.add(image);
    file.files = chosen.files;
    form.requestSubmit();
  }
}

form.addEventListener("submit", () => {
  if (filter) form.elements.where.value = filter.value;
  document.documentElement.classList.add("busy");
});
window.addEventListener("pageshow", () => document.documentElement.classList.remove("busy"));
file.addEventListener("change", () => file.files.length && searchFor(file.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  form.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) form.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  form.classList.remove("over");
  searchFor(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) {
    event.preventDefault();
    searchFor(event.clipboardData.files);
  }
});
