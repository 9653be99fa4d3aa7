/* "Copy details": one line of text for the administrator. Without this script the button is hidden.

   The relay joins the lines and drops these comments, so each statement ends with a semicolon.
   The time is the browser's, so that the page itself depends on no clock. Where the clipboard is
   refused, the line is shown instead. */
(function(){
  var b=document.querySelector('button'),o=document.querySelector('output');
  if(!navigator.clipboard)return;
  var d=b.dataset.details+' time='+new Date().toISOString().slice(0,19)+'Z';
  b.hidden=false;
  b.onclick=function(){
    o.textContent='';
    navigator.clipboard.writeText(d).then(
      function(){o.textContent=b.dataset.copied},
      function(){o.textContent=d}
    )
  }
})()
